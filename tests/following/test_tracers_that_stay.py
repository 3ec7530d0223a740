"""Tracers and profilers that cannot follow the loop stay on their thread, and the loop continues.

One that cannot be called was set in C.  One that keeps account of one thread raises on another.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import ctypes
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from helpers import pipe, run_script
from steps import elsewhere

import hybridexec
from hybridexec.platform.own import own

SETTERS: dict[str, Callable[[Any], None]] = {"trace": sys.settrace, "profile": sys.setprofile}
GETTERS: dict[str, Callable[[], Any]] = {"trace": sys.gettrace, "profile": sys.getprofile}
KINDS = pytest.mark.parametrize("kind", SETTERS)


@pytest.fixture(autouse=True)
def untraced() -> Iterator[None]:
    """The test run's own tracer stays out of it, and is put back."""
    before = sys.gettrace(), sys.getprofile()
    sys.settrace(None)
    sys.setprofile(None)
    yield
    sys.settrace(before[0])
    sys.setprofile(before[1])


class OfOneThread:
    """Raises on every thread but the one that it is made on, from the n-th call there on.

    Attributes:
        seen: what it has seen on its own thread.
        elsewhere: the code that it was called for on another.
    """

    def __init__(self, patience: int = 0) -> None:
        self.thread = _thread.get_ident()
        self.seen: list[str] = []
        self.elsewhere: list[Any] = []
        self._patience = patience

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if _thread.get_ident() == self.thread:
            self.seen.append(frame.f_code.co_name)
            return None
        self.elsewhere.append(frame.f_code)
        if len(self.elsewhere) > self._patience:
            raise AssertionError("not my thread")
        return None


def on_a_spare() -> None:
    """Called in a step on a spare."""


def at_home() -> None:
    """Called in a step at home."""


def away_and_back(start: Callable[[], object]) -> None:
    """A step at home starts something, and blocks until one on a spare has run; and so once more, wherever it is."""
    order: list[str] = []

    async def other(writer: int) -> None:
        await asyncio.sleep(0)
        on_a_spare()
        order.append("spare" if _thread.get_ident() != home else "home")
        os.write(writer, b"x")

    async def main() -> None:
        start()
        for _ in range(2):
            with pipe() as (reader, writer):
                task = asyncio.create_task(other(writer))
                os.read(reader, 1)
                at_home()
                await task

    home = _thread.get_ident()
    hybridexec.run(main())
    assert order[0] == "spare"
    assert len(order) == 2


@KINDS
def test_one_that_raises_on_another_thread_stays_on_its_own(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    tracer = OfOneThread()

    away_and_back(lambda: SETTERS[kind](tracer))
    assert GETTERS[kind]() is tracer
    SETTERS[kind](None)
    assert "at_home" in tracer.seen
    (code,) = tracer.elsewhere  # it is called there once
    assert not own(code), "this package's code is none of a tracer's on a spare"
    (record,) = [record for record in caplog.records if record.name == "hybridexec"]
    assert "OfOneThread has raised AssertionError" in record.getMessage()
    assert "not my thread" not in caplog.text


@KINDS
def test_many_that_raise_are_told_once(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async def other(writer: int) -> None:
        on_a_spare()
        os.write(writer, b"x")

    async def main() -> None:
        for _ in range(5):
            with pipe() as (reader, writer):
                SETTERS[kind](OfOneThread())
                task = asyncio.create_task(other(writer))
                os.read(reader, 1)
                SETTERS[kind](None)
                await task

    hybridexec.run(main())
    assert len([record for record in caplog.records if record.name == "hybridexec"]) == 1


_PROFILER = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_set_profiler = ctypes.pythonapi.PyEval_SetProfile
_set_profiler.argtypes = (_PROFILER, ctypes.py_object)
_set_profiler.restype = None
_events: list[int] = []


@_PROFILER
def _in_c(thing: int, frame: int, event: int, arg: int) -> int:
    _events.append(_thread.get_ident())
    return 0


def test_one_that_cannot_be_called_stays_on_its_thread(caplog: pytest.LogCaptureFixture) -> None:
    home = _thread.get_ident()
    mine = object()
    _events.clear()

    away_and_back(lambda: _set_profiler(_in_c, mine))
    assert sys.getprofile() is mine
    before = len(_events)
    at_home()
    assert len(_events) > before
    sys.setprofile(None)
    assert set(_events) == {home}
    (record,) = [record for record in caplog.records if record.name == "hybridexec"]
    assert "type builtins.object cannot be called" in record.getMessage()


@KINDS
def test_one_that_comes_along_is_first_called_for_a_step(kind: str) -> None:
    """The spare's way to it is nobody's business."""
    home = _thread.get_ident()
    codes: list[Any] = []

    def sees(frame: FrameType, event: str, arg: object) -> None:
        if _thread.get_ident() != home:
            codes.append(frame.f_code)

    async def other() -> None:
        on_a_spare()

    async def main() -> None:
        SETTERS[kind](sees)
        await elsewhere(other())
        SETTERS[kind](None)

    hybridexec.run(main())
    assert on_a_spare.__code__ in codes
    assert not own(codes[0])


@KINDS
@pytest.mark.parametrize("patience", [*range(1, 30, 4), *(pytest.param(n, marks=pytest.mark.hunt) for n in range(80))])
def test_one_that_raises_later_does_not_hang_the_loop(kind: str, patience: int) -> None:
    """In a step, or in what runs the steps: the run goes on, or ends with what it has raised."""
    tracer = OfOneThread(patience)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        SETTERS[kind](tracer)
        for _ in range(3):
            with pipe() as (reader, writer):
                beside = threading.Timer(0.5, os.write, (writer, b"x"))  # where the step that releases is lost
                beside.start()
                loop.call_soon(on_a_spare)
                loop.call_soon(os.write, writer, b"x")
                os.read(reader, 1)
                beside.cancel()
                beside.join()
        SETTERS[kind](None)

    with contextlib.suppress(AssertionError):
        hybridexec.run(main())
    SETTERS[kind](None)
    assert hybridexec.run(asyncio.sleep(0, "another run")) == "another run"


PROFILED = """
import asyncio, os
import hybridexec


async def other(writer):
    await asyncio.sleep(0)
    os.write(writer, b"x")
    return "other"


async def main():
    for _ in range(3):
        reader, writer = os.pipe()
        task = asyncio.create_task(other(writer))
        os.read(reader, 1)
        result = await task
    return result


print(hybridexec.run(main()))
"""


def test_a_program_may_be_run_by_the_library_s_profiler_in_python(tmp_path: Path) -> None:
    """It keeps account of one thread's calls, and says so by an assertion."""
    (tmp_path / "program.py").write_text(PROFILED)
    output = run_script("-W", "ignore", "-m", "profile", "program.py", cwd=tmp_path)
    assert "other\n" in output
    assert "function calls" in output


def test_pyinstrument_profiles_a_program_that_moves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pyinstrument = pytest.importorskip("pyinstrument")
    home = _thread.get_ident()
    profiler = pyinstrument.Profiler(interval=0.0005)
    ran: list[bool] = []

    async def other(writer: int) -> None:
        ran.append(_thread.get_ident() != home)
        os.write(writer, b"x")

    def computes() -> int:
        return sum(n * n for n in range(400_000))

    async def main() -> None:
        with profiler:
            for _ in range(3):
                with pipe() as (reader, writer):
                    task = asyncio.create_task(other(writer))
                    os.read(reader, 1)
                    computes()
                    await task

    hybridexec.run(main())
    assert ran == [True] * 3
    assert "computes" in profiler.output_text(unicode=False, color=False)


def test_pyinstrument_runs_a_program(tmp_path: Path) -> None:
    if importlib.util.find_spec("pyinstrument") is None:
        pytest.skip("pyinstrument is not for this Python yet")
    (tmp_path / "program.py").write_text(PROFILED)
    assert "other\n" in run_script("-m", "pyinstrument", "program.py", cwd=tmp_path)
