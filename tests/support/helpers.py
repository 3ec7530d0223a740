"""What the tests share: scenes that come to their end only if the loop moves, and eyes to watch them with."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import ctypes
import os
import subprocess
import sys
import textwrap
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import pytest

import hybridexec
from hybridexec import CallSite, Detection, HybridLoop, Stats, Upcall, UpcallKind, _core
from hybridexec.protocol.lwp import LWP, current

LIBC = ctypes.CDLL(None)

COPIES_STACKS = pytest.mark.unsanitized(reason="greenlets copy stacks, which AddressSanitizer takes for overflows")
"""Of tests with greenlets."""
"""Calls through it let the GIL go, and are in no catalogue."""

AUTO: Literal["native", "selector"] = "selector" if _core.compiled is None else "native"
"""The engine that "auto" is."""

ENGINES: list[Literal["native", "selector", "uvloop"]]
ENGINES = ["native", "selector", "uvloop"] if AUTO == "native" else ["selector", "uvloop"]
"""All engines."""

ROOT = Path(hybridexec.__file__).resolve().parents[1]
SUPPORT = Path(__file__).resolve().parent


class Recorder(hybridexec.Instrument):
    """Keeps every upcall."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._upcalls: list[Upcall] = []

    def _keep(self, upcall: Upcall) -> None:
        with self._lock:
            self._upcalls.append(upcall)

    blocked = unblocked = preempted = lwp_started = lwp_retired = exhausted = _keep

    def of(self, kind: UpcallKind, user_thread: str | None = None) -> list[Upcall]:
        """The upcalls of one kind, maybe of one user thread."""
        with self._lock:
            return [u for u in self._upcalls if u.kind is kind and user_thread in (None, u.task)]

    def detections(self, user_thread: str = "blocker") -> list[Detection | None]:
        """How the blocks of a user thread were noticed."""
        return [upcall.detection for upcall in self.of(UpcallKind.BLOCKED, user_thread)]


def running_loop() -> HybridLoop:
    """The loop that runs the calling step."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, HybridLoop)
    return loop


def holds(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the calling thread is the one that the loop is carried by."""
    carrying = getattr(loop, "_carrying", None)
    if carrying is None:  # asyncio's own loop
        return bool(getattr(loop, "_thread_id") == _thread.get_ident())  # noqa: B009
    return carrying.holder is not None and carrying.holder.ident == _thread.get_ident()


def here() -> LWP:
    """The LWP of the calling step."""
    lwp = current.get(_thread.get_ident())
    assert lwp is not None
    return lwp


def thread_name() -> str:
    """The name of the calling OS thread."""
    return next(thread.name for thread in threading.enumerate() if thread.ident == _thread.get_ident())


def fresh[F: Callable[..., Any]](function: F) -> F:
    """The same function with code of its own, at whose call sites the detector has learned nothing yet."""
    assert isinstance(function, types.FunctionType)
    code = function.__code__.replace()
    copy = types.FunctionType(code, function.__globals__, function.__name__, None, function.__closure__)
    copy.__defaults__, copy.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return copy  # type: ignore[return-value]


def nothing() -> None:
    """Releases what ends by itself."""


def one_callee_frames(site: CallSite | None) -> str:
    """The name of the file that a call site is in."""
    assert site is not None
    return os.path.basename(site.file)


class Scene:
    """What became of a scene.

    Attributes:
        order: what happened, in order: "blocks", "releases", "returns" if the loop has moved.
        result: what the blocking function returned.
        error: what it raised.
        held: whether the step held the loop when it went on.
        recorder: the upcalls.
        stats: the loop's figures at the end.
    """

    def __init__(self) -> None:
        self.order: list[str] = []
        self.result: Any = None
        self.error: Exception | None = None
        self.held = False
        self.recorder = Recorder()
        self.stats: Stats

    @property
    def moved(self) -> bool:
        """Whether the loop has left the blocking step."""
        return self.order == ["blocks", "releases", "returns"]

    @property
    def stayed(self) -> bool:
        """Whether the blocking step was over before anybody else had a turn."""
        return self.order == ["blocks", "returns", "releases"]


def play(block: Callable[[], Any], release: Callable[[], object] = nothing, **options: Any) -> Scene:
    """One task blocks, and the task behind it in the ready queue releases it.

    If only the release can end the block, the scene comes to its end only if the loop has moved meanwhile.  What the
    detector has learned about the call in an earlier scene (on a machine that was busy then) is forgotten.
    """
    scene = Scene()

    async def blocker() -> None:
        loop = asyncio.get_running_loop()
        scene.order.append("blocks")
        try:
            scene.result = block()
        except Exception as exc:
            scene.error = exc
        scene.held = holds(loop)
        scene.order.append("returns")

    async def other() -> None:
        scene.order.append("releases")
        release()

    async def main() -> None:
        await asyncio.gather(
            asyncio.create_task(fresh(blocker)(), name="blocker"),
            asyncio.create_task(other(), name="other"),
        )
        scene.stats = running_loop().stats()

    hybridexec.run(main(), instruments=[scene.recorder], **options)
    return scene


class Witness:
    """Whether a step that was released has gone on before its turn.

    The body of :func:`play_strictly` sets ``returned`` by the first statement after its blocking call.
    """

    def __init__(self) -> None:
        self.returned = False
        self.held = False
        self.too_early = False
        self.spun = 0


def play_strictly(
    body: Callable[[Witness], object], release: Callable[[], object] = nothing, **options: Any
) -> Recorder:
    """One task blocks; another releases it and keeps the loop: not a statement of the first may run meanwhile.

    Args:
        body: blocks, then sets ``returned`` at once.  It may be run several times in one process: its code is fresh.
        release: ends the block.
        **options: fields of the configuration.
    """
    witness = Witness()
    recorder = Recorder()
    body = fresh(body)

    async def blocker() -> None:
        loop = asyncio.get_running_loop()
        body(witness)
        witness.held = holds(loop)

    async def spinner() -> None:
        with hybridexec.pinned():  # what releases may be a call that can block; the spinning must not be a new step
            release()
            until = monotonic() + 0.04
            while monotonic() < until:
                witness.spun += 1
                if witness.returned:
                    witness.too_early = True

    async def main() -> None:
        tasks = asyncio.create_task(blocker(), name="blocker"), asyncio.create_task(spinner(), name="spinner")
        await asyncio.gather(*tasks)

    with quick_switches():
        hybridexec.run(main(), instruments=[recorder], **options)
    assert witness.spun > 0
    assert witness.returned
    assert witness.held
    assert not witness.too_early
    return recorder


@contextlib.contextmanager
def quick_switches(interval: float = 1e-5) -> Iterator[None]:
    """Let threads take the interpreter from each other as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: the end to read from, the end to write to."""
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        for fd in (reader, writer):
            with contextlib.suppress(OSError):
                os.close(fd)


def fill(fd: int) -> int:
    """Write to a pipe or a socket until it takes no more; how many bytes it took."""
    blocking = os.get_blocking(fd)
    os.set_blocking(fd, False)
    written = 0
    for size in (65536, 4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                written += os.write(fd, b"x" * size)
    os.set_blocking(fd, blocking)
    return written


def lwps() -> list[str]:
    """The names of the threads of this package."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("hybridexec-")]


def environment(**variables: str) -> dict[str, str]:
    """The environment for a process of a test: it finds the package and this folder, and prints without a delay."""
    path = os.pathsep.join(filter(None, (str(ROOT), str(SUPPORT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **variables}


def start(source: str, *arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.Popen[str]:
    """Start a program of its own, with pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env=environment(**variables),
    )


def run_script(*command: str, cwd: Path, **variables: str) -> str:
    """Run ``python`` with these arguments, which has to end well; what it prints."""
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment(**variables), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
