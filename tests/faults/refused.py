"""The system refuses: threads, memory, locks, descriptors."""

from __future__ import annotations

import _thread
import asyncio
import gc
import os
import resource
import socket
import subprocess
import sys
import threading
from typing import Any

import hybridexec
import hybridexec.engines.uv  # now: another user may not be allowed to read it
from hybridexec.platform.threads import os_ident
from hybridexec.protocol import lwp

from .scene import ENGINE, REFUSALS, blocks, in_child, main, program, relays, right, run_blocks

_START = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"


@program
def threads(most: str = "8") -> None:
    """The n-th thread is refused: once, from then on, or every other one from then on."""
    start = getattr(threading, _START)
    for mode in ("once", "on", "alternating"):
        for n in range(1, int(most) + 1):
            count = 0

            def refuses(*args: Any, n: int = n, mode: str = mode, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                if count == n or (count > n and (mode == "on" or (mode == "alternating" and (count - n) % 2 == 0))):
                    raise RuntimeError("can't start new thread")
                return start(*args, **kwargs)

            setattr(threading, _START, refuses)
            try:
                right(run_blocks(), 8)  # main's result is there, and so is each task's
            finally:
                setattr(threading, _START, start)
            hybridexec.run(relays())


@program
def processes(*limits: str) -> None:
    """RLIMIT_NPROC, as a user that it holds for."""

    def child(limit: int) -> None:
        os.setgid(65534)
        os.setuid(60000 + limit)
        resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))
        right(run_blocks(), 8)

    if os.getuid():
        print("skipped: only root can become a user without processes")
        return
    for limit in map(int, limits):
        assert in_child(lambda limit=limit: child(limit)) == 0, limit  # type: ignore[misc]


@program
def memory(*sizes: str) -> None:
    """RLIMIT_AS, so many MiB above what the process has when it begins."""

    def child(mebibytes: int) -> None:
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * resource.getpagesize()
        before = resource.getrlimit(resource.RLIMIT_AS)

        async def scene() -> None:
            hog = []

            async def eats() -> None:
                try:
                    while True:
                        hog.append(bytearray(1 << 20))
                        os.sched_yield()
                        await asyncio.sleep(0)
                except MemoryError:
                    return

            results = await asyncio.gather(eats(), blocks(20, 2), return_exceptions=True)
            hog.clear()
            for result in results:
                if isinstance(result, BaseException):
                    assert isinstance(result, REFUSALS), repr(result)
                elif result is not None:
                    right(result, 20, *REFUSALS)
            right(await blocks(5), 5, *REFUSALS)

        resource.setrlimit(resource.RLIMIT_AS, (used + (mebibytes << 20), before[1]))
        try:
            hybridexec.run(scene())
        except REFUSALS as exc:  # no loop could be made, or the run has ended by it
            print(f"{mebibytes} MiB: {exc!r}")
        resource.setrlimit(resource.RLIMIT_AS, before)
        hybridexec.run(relays())

    for size in map(int, sizes):
        status = in_child(lambda size=size: child(size))  # type: ignore[misc]
        assert status == 0, f"{size} MiB: status {status}"


@program
def locks(most: str = "12") -> None:
    """The n-th lock that is asked for on a thread which is not the home is refused."""
    allocate = _thread.allocate_lock
    home = os_ident()
    left = 0

    def refuses() -> Any:
        nonlocal left
        if left and os_ident() != home:
            left -= 1
            if not left:
                raise RuntimeError("can't allocate lock")
        return allocate()

    class Thread:
        def __getattr__(self, name: str) -> Any:
            return refuses if name == "allocate_lock" else getattr(sys.modules["_thread"], name)

    for module in (lwp, threading):
        vars(module).update(_thread=Thread(), _allocate_lock=refuses, Lock=refuses)
    for n in range(1, int(most) + 1):

        async def scene(n: int = n) -> None:
            nonlocal left
            right(await blocks(3), 3)
            left = n
            right(await blocks(8), 8, RuntimeError)

        try:
            hybridexec.run(scene())
        except RuntimeError as exc:
            print(f"{n}: {exc!r}")
        left = 0
        hybridexec.run(relays())


def _use_up(left: int) -> list[int]:
    """Open files until only so many more can be."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    kept = []
    try:
        while True:
            kept.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        for _ in range(left):
            os.close(kept.pop())
    return kept


@program
def descriptors_for_a_loop(*lefts: str) -> None:
    """So few descriptors are left that no loop can be made."""
    complaints: list[Any] = []
    sys.unraisablehook = complaints.append
    hybridexec.run(relays())  # what is opened once is open
    open_before = set(os.listdir("/proc/self/fd"))
    for left in map(int, lefts):
        kept = _use_up(left)
        for _ in range(20):
            try:
                hybridexec.new_event_loop().close()
            except OSError:
                continue
        gc.collect()
        for each in kept:
            os.close(each)
        assert not complaints, complaints
        assert all(sys.monitoring.get_tool(tool) != "hybridexec" for tool in range(6))
        assert set(os.listdir("/proc/self/fd")) == open_before
        hybridexec.run(relays())


_CLIENTS = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
sockets = [socket.create_connection(("127.0.0.1", int(sys.argv[1])), 30) for _ in range(100)]
answered = 0
for each in sockets:
    try:
        each.send(b"x")
        answered += each.recv(1) == b"y"
    except ConnectionError:
        pass
    each.close()
print(answered)
"""


@program
def descriptors_for_accept() -> None:
    """More connections come than the process may have descriptors for."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 4096))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if await reader.read(1):
                await blocks(1, 1)
                writer.write(b"y")
                await writer.drain()
        finally:
            writer.close()

    async def scene() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=200)
        port = server.sockets[0].getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _CLIENTS, str(port), stdout=subprocess.PIPE
        )
        answered = int((await process.communicate())[0])
        print(f"{answered} of 100 answered")
        # libuv closes what it has no descriptor for
        assert answered == 100 if ENGINE != "uvloop" else answered > 0
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x")
        assert await reader.read(1) == b"y"
        writer.close()
        server.close()

    hybridexec.run(scene())


@program
def descriptors_in_a_step() -> None:
    """A step that blocks finds no descriptor left: what it opens fails, and nothing else does."""

    async def opens() -> None:
        try:
            socket.socketpair()
        except OSError:
            return
        raise AssertionError("there was a descriptor")

    async def scene() -> None:
        await relays()
        kept = _use_up(0)
        try:
            results = await asyncio.gather(opens(), blocks(8))
        finally:
            for each in kept:
                os.close(each)
        right(results[1], 8)
        await relays()

    hybridexec.run(scene())


if __name__ == "__main__":
    main()
