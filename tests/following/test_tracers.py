"""Tracers and profilers that a step sets are in force wherever the loop goes, and no longer than on asyncio."""

from __future__ import annotations

import _thread
import asyncio
import bdb
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Self

import pytest
from helpers import LIBC, fresh, pipe, run_script
from steps import elsewhere

import hybridexec
from hybridexec.following import tracers


@pytest.fixture(autouse=True)
def untraced() -> Iterator[None]:
    """The test run's own tracer stays out of it, and is put back."""
    before = sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile()
    sys.settrace(None)
    sys.setprofile(None)
    threading.settrace(None)
    threading.setprofile(None)
    yield
    sys.settrace(before[0])
    sys.setprofile(before[1])
    threading.settrace(before[2])
    threading.setprofile(before[3])


class Seen:
    """What a tracer sees of this file: a plain function's, or a bound method."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def trace(self, frame: FrameType, event: str, arg: object) -> Any:
        """The tracer, or the profiler."""
        if event == "call" and frame.f_code.co_filename == __file__:
            self.names.append(frame.f_code.co_name)

    def as_function(self) -> Any:
        """The same, without an object."""
        return lambda *event: self.trace(*event)


def on_another() -> None:
    """Called on another thread."""


def after() -> None:
    """Called when nobody traces any longer."""


def _read(reader: int) -> None:
    os.read(reader, 1)


def _read_unseen(reader: int) -> None:
    LIBC.read(reader, b" ", 1)


def test_a_step_that_comes_back_is_whole_before_its_tracer_is_called() -> None:
    """The tracer is set when all else is done, so it is not called half way: there the current task is none."""
    called: list[str] = []

    async def main() -> None:
        def trace(frame: FrameType, event: str, arg: object) -> None:
            called.append(frame.f_code.co_name)

        with pipe() as (reader, writer):
            asyncio.get_running_loop().call_soon(os.write, writer, b"x")
            asyncio.get_running_loop().call_soon(sys.settrace, trace)
            with hybridexec.blocking():
                os.read(reader, 1)
            while sys.gettrace() is None:  # it was back before the other callback
                await asyncio.sleep(0)
            on_another()
            sys.settrace(None)

    hybridexec.run(main())
    assert "on_another" in called
    assert "returned" not in called


SETTERS: dict[str, Callable[[Any], None]] = {"trace": sys.settrace, "profile": sys.setprofile}
GETTERS: dict[str, Callable[[], Any]] = {"trace": sys.gettrace, "profile": sys.getprofile}


@pytest.mark.parametrize("kind", SETTERS)
@pytest.mark.parametrize("block", [_read, _read_unseen])
@pytest.mark.parametrize("form", ["function", "method"])
@pytest.mark.parametrize("warm", [False, True])
def test_what_a_step_sets_at_home_is_in_force_on_a_spare(
    kind: str, block: Callable[[int], None], form: str, warm: bool
) -> None:
    seen = Seen()
    tracer = seen.trace if form == "method" else seen.as_function()
    block = fresh(block)

    async def releases(writer: int) -> None:
        assert GETTERS[kind]() is tracer
        on_another()
        SETTERS[kind](None)
        after()
        os.write(writer, b"x")

    async def main() -> None:
        if warm:
            await elsewhere(asyncio.sleep(0))
        with pipe() as (reader, writer):
            task = asyncio.create_task(releases(writer))
            SETTERS[kind](tracer)
            block(reader)
            assert GETTERS[kind]() is None
            after()
            await task

    hybridexec.run(main())
    assert "on_another" in seen.names
    assert "after" not in seen.names
    assert GETTERS[kind]() is None


@pytest.mark.parametrize("kind", SETTERS)
def test_what_a_step_sets_on_a_spare_is_in_force_at_home_and_after_the_run(kind: str) -> None:
    seen = Seen()
    tracer = seen.as_function()

    async def sets() -> None:
        on_another()
        SETTERS[kind](tracer)

    def back() -> None: ...

    async def main() -> None:
        await elsewhere(sets())
        back()

    hybridexec.run(main())
    try:
        assert GETTERS[kind]() is tracer
    finally:
        SETTERS[kind](None)
    assert "back" in seen.names
    assert "on_another" not in seen.names


def test_a_tracer_that_is_set_without_the_loop_is_the_loops() -> None:
    seen = Seen()
    tracer = seen.as_function()

    async def calls() -> None:
        on_another()

    async def main() -> None:
        with hybridexec.blocking():
            sys.settrace(tracer)
        await elsewhere(calls())
        sys.settrace(None)

    hybridexec.run(main())
    assert "on_another" in seen.names


def test_the_hook_for_new_threads_is_not_for_the_loop() -> None:
    """On asyncio it would not see the coroutines."""
    seen = Seen()
    threads: list[str] = []

    def in_thread() -> None:
        threads.append("ran")

    async def calls() -> None:
        on_another()
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()

    async def main() -> None:
        threading.settrace(seen.as_function())
        await elsewhere(calls())
        threading.settrace(None)

    hybridexec.run(main())
    assert threads == ["ran"]
    assert "in_thread" in seen.names
    assert "on_another" not in seen.names


class PerThread:
    """A tracer that keeps account of the calls of one thread, and its hook for new threads: as coverage's are."""

    def __init__(self) -> None:
        self.all: list[PerThread._One] = []
        self.names: list[str] = []

    class _One:
        def __init__(self, owner: PerThread) -> None:
            self.owner = owner
            self.thread = _thread.get_ident()

        def __call__(self, frame: FrameType, event: str, arg: object) -> Self:
            assert self.thread == _thread.get_ident()
            if event == "call":
                self.owner.names.append(frame.f_code.co_name)
            return self

    def hook(self, frame: FrameType, event: str, arg: object) -> Any:
        """What a new thread gets."""
        self.start()
        one: Any = sys.gettrace()
        return one(frame, event, arg)

    def start(self) -> None:
        """Trace the calling thread."""
        self.all.append(PerThread._One(self))
        sys.settrace(self.all[-1])


def test_a_tool_with_a_tracer_for_each_thread_gets_one_for_each() -> None:
    tool = PerThread()

    async def calls() -> None:
        on_another()

    async def main() -> None:
        await elsewhere(asyncio.sleep(0))  # there is a spare before there is a tracer
        tool.start()
        threading.settrace(tool.hook)
        for _ in range(3):
            await elsewhere(calls())
        sys.settrace(None)
        threading.settrace(None)

    hybridexec.run(main())
    assert tool.names.count("on_another") == 3
    assert len({one.thread for one in tool.all}) == len(tool.all)


@pytest.mark.needs_stack
def test_a_debugger_stops_at_its_breakpoint_on_a_spare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "debugged.py").write_text("def target():\n    x = 1\n    return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    debugged = importlib.import_module("debugged")
    stopped: list[int] = []

    class Debugger(bdb.Bdb):
        def user_line(self, frame: FrameType) -> None:
            if frame.f_code.co_name == "target":
                stopped.append(frame.f_lineno)
            self.set_continue()

    async def calls() -> None:
        on_another()
        debugged.target()

    async def main() -> None:
        debugger = Debugger()
        debugger.set_break(str(tmp_path / "debugged.py"), 2)
        debugger.reset()
        sys.settrace(debugger.trace_dispatch)
        await elsewhere(calls())
        sys.settrace(None)
        debugger.clear_all_breaks()

    try:
        hybridexec.run(main())
    finally:
        sys.modules.pop("debugged", None)
    assert stopped == [2]


COVERED = """
import asyncio


async def blocks(gate, block):
    before = 1
    block()
    after = before + 1
    await asyncio.sleep(0)
    return after


async def goes_on(release):
    for n in range(3):
        await asyncio.sleep(0)
        if n == 2:
            last = helper(n)
            release()
            release()
    return last


def helper(n):
    doubled = n * 2
    return doubled
"""

COVERAGE = """
import asyncio, ctypes, importlib, os, sys, threading
import coverage
import hybridexec

libc = ctypes.CDLL(None)
reader, writer = os.pipe()
blocks = {"declared": lambda: os.read(reader, 1), "discovered": lambda: libc.read(reader, b" ", 1)}


async def rounds(app):
    for block in blocks.values():
        both = app.blocks(None, block), app.blocks(None, block)
        assert (await asyncio.gather(*both, app.goes_on(lambda: os.write(writer, b"x"))))[2] == 4


async def main():
    import warmed
    await rounds(warmed)
    for n in range(2):
        covered = coverage.Coverage(data_file=None, config_file=False, include=["*measured*"])
        covered.start()
        try:
            app = importlib.import_module(f"measured{n}")
            await rounds(app)
        finally:
            covered.stop()
        for name in (f"measured{n}",):
            missing = covered.analysis2(os.path.abspath(name + ".py"))[3]
            assert not missing, (name, missing)


hybridexec.run(main())
print("covered")
"""


@pytest.mark.parametrize("core", ["ctrace", "pytrace"])
def test_coverage_that_a_coroutine_starts_sees_every_line(core: str, tmp_path: Path) -> None:
    pytest.importorskip("coverage")
    for name in ("warmed", "measured0", "measured1"):
        (tmp_path / f"{name}.py").write_text(COVERED)
    (tmp_path / "program.py").write_text(COVERAGE)
    assert "covered" in run_script("program.py", core, cwd=tmp_path, COVERAGE_CORE=core)


def test_the_layout_is_known_here() -> None:
    assert tracers._places() is not None
