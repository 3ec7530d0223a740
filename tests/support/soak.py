"""Soak: a program that makes and drops everything, again and again, holds no more at its end than at a tenth.

    python tests/soak.py STEPS [ENGINE]

Fresh code objects (with calls that block, in every way), contexts, tasks, threads, loops, executors, connections and
exceptions come and go.  What is held is looked at after a tenth of the steps and at the end: memory, objects,
descriptors, threads, and what the detector keeps.  Exit status 1, with a sentence for each, if something has grown.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import dataclasses
import gc
import os
import random
import resource
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import hybridexec
from hybridexec.detector import calls, trap
from hybridexec.protocol import lwp

LIBC = ctypes.CDLL(None)
TASKS = 10
ROUND = 500
"""Steps that one loop takes, about."""
EXECUTOR_EVERY = 5
"""So many loops have an executor among them."""

VARIABLE: contextvars.ContextVar[object] = contextvars.ContextVar("VARIABLE")

type Engine = Literal["native", "selector", "uvloop"]


@dataclasses.dataclass(frozen=True)
class Held:
    """What the process holds at one moment."""

    steps: int
    resident: int
    """KiB of memory."""
    blocks: int
    """Of CPython's allocator."""
    objects: int
    """That the garbage collector knows."""
    descriptors: int
    threads: int
    sites: int
    """That the detector knows."""
    lwps: int
    armed: int
    tools: tuple[str | None, ...]
    """Who has the tool ids of ``sys.monitoring``."""


ALLOWED: dict[str, float] = {
    "resident": 6144,
    "blocks": 2500,
    "objects": 250,
    "descriptors": 0,
    "threads": 0,
    "sites": 25,
    "lwps": 0,
    "armed": 0,
}
"""How much more there may be at the end, whatever the number of steps: caches fill up, memory is torn."""


def held(steps: int) -> Held:
    """Look at the process, between two loops."""
    for _ in range(3):
        gc.collect()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return Held(
        steps=steps,
        resident=pages * resource.getpagesize() // 1024,
        blocks=sys.getallocatedblocks(),
        objects=len(gc.get_objects()),
        descriptors=len(os.listdir("/proc/self/fd")),
        threads=len(os.listdir("/proc/self/task")),
        sites=len(calls.sites),
        lwps=len(lwp.current),
        armed=len(trap._armory.codes),
        tools=tuple(sys.monitoring.get_tool(number) for number in range(6)),
    )


def grown(early: Held, late: Held) -> list[str]:
    """A sentence for each thing that there is too much of at the end."""
    before, after = dataclasses.asdict(early), dataclasses.asdict(late)
    said = [
        f"{name} has grown from {before[name]} to {after[name]}, in {late.steps - early.steps} steps"
        for name, most in ALLOWED.items()
        if after[name] - before[name] > most
    ]
    if late.tools != early.tools:
        said.append(f"the tools of sys.monitoring were {early.tools} and are {late.tools}")
    return said


# ---------------------------------------------------------------- what a step does

BODIES = (
    "lock.acquire(); lock.release()",
    "sleep(0.0002)",
    "usleep(200)",
    "with lock: pass",
    "with blocking(): sleep(0.0001)",
    "try: raise ValueError(lock)\n    except ValueError: pass",
)


def fresh(number: int, body: str) -> Callable[[threading.Lock], object]:
    """A function with code of its own, and a file of its own."""
    names: dict[str, Any] = {"sleep": time.sleep, "usleep": LIBC.usleep, "blocking": hybridexec.blocking}
    exec(compile(f"def f(lock):\n    {body}\n", f"<fresh {number}>", "exec"), names)
    return names["f"]


class Scene:
    """One loop's steps.

    Args:
        seed: what they are drawn by.
    """

    def __init__(self, seed: int) -> None:
        self.steps = 0
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._acts: list[Callable[[], Awaitable[object]]] = [
            self._code,
            self._code,
            self._context,
            self._thread,
            self._connection,
            self._stream,
            self._cancelled,
            self._failing,
            self._bound,
            self._pinned,
            self._read,
            self._lock_across,
        ]

    async def run(self) -> None:
        """Take the steps."""
        await asyncio.gather(*(self._task() for _ in range(TASKS)))

    async def _task(self) -> None:
        for _ in range(ROUND // TASKS):
            self.steps += 1
            if self._random.random() < 0.3:
                await self._random.choice(self._acts)()
            await asyncio.sleep(0)

    async def _code(self) -> None:
        fresh(self._random.randrange(10**9), self._random.choice(BODIES))(threading.Lock())

    async def _context(self) -> None:
        VARIABLE.set(object())
        context = contextvars.copy_context()
        asyncio.get_running_loop().call_soon(VARIABLE.set, object(), context=context)
        await asyncio.get_running_loop().create_task(asyncio.sleep(0), context=context)

    async def _thread(self) -> None:
        future = asyncio.get_running_loop().create_future()
        thread = threading.Thread(target=future.get_loop().call_soon_threadsafe, args=(future.set_result, None))
        thread.start()
        await future
        thread.join()

    async def _connection(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.settimeout(5)
            asyncio.get_running_loop().call_later(0.0003, theirs.send, b"x")
            ours.recv(1)

    async def _stream(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            theirs.send(b"line\n")
            await reader.readline()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _cancelled(self) -> None:
        task = asyncio.ensure_future(asyncio.sleep(10))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.0003)

    async def _failing(self) -> None:
        async def fails() -> None:
            time.sleep(0.0002)
            raise LookupError(object())

        with contextlib.suppress(LookupError):
            await asyncio.ensure_future(fails())

    async def _bound(self) -> None:
        with hybridexec.bound():
            time.sleep(0.0002)
            await asyncio.sleep(0)

    async def _pinned(self) -> None:
        with hybridexec.pinned():
            time.sleep(0.0001)
            await asyncio.sleep(0)

    async def _read(self) -> None:
        reader, writer = os.pipe()
        asyncio.get_running_loop().call_soon(os.write, writer, b"x")
        os.read(reader, 1)
        os.close(reader)
        os.close(writer)

    async def _lock_across(self) -> None:
        with self._lock:
            await asyncio.sleep(0)


def executes() -> None:
    """An executor that comes and goes."""

    async def both() -> None:
        time.sleep(0.0002)
        await asyncio.sleep(0)

    with hybridexec.HybridExecutor(2) as executor:
        futures = [executor.submit(time.sleep, 0.0003) for _ in range(4)]
        futures += [executor.submit(both) for _ in range(4)]
        for future in futures:
            future.result()


def soak(steps: int, engine: Engine, tell: Callable[[Held], object] = print) -> list[str]:
    """Take so many steps.

    Args:
        steps: how many, about.
        engine: what the loops are over.
        tell: is given what is held, after a tenth and at the end.

    Returns:
        What has grown.
    """
    taken = loops = 0
    early: Held | None = None
    while taken < steps:
        scene = Scene(loops)
        hybridexec.run(scene.run(), engine=engine)
        if loops % EXECUTOR_EVERY == 0:
            executes()
        taken += scene.steps
        loops += 1
        if early is None and taken >= steps / 10:
            early = held(taken)
            tell(early)
    del scene
    late = held(taken)
    tell(late)
    assert early is not None
    return grown(early, late)


if __name__ == "__main__":
    chosen: Any = sys.argv[2] if len(sys.argv) > 2 else "selector"
    complaints = soak(int(sys.argv[1]), chosen)
    print("\n".join(complaints) or "nothing has grown")
    sys.exit(bool(complaints))
