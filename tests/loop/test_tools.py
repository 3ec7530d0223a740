"""What people run beside a loop: coverage, profilers, tracers, debuggers, and what looks at threads."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import cProfile
import faulthandler
import functools
import io
import os
import pdb
import pstats
import re
import subprocess
import sys
import tempfile
import textwrap
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import coverage
import pytest
from blockbuster import BlockingError, blockbuster_ctx
from helpers import (
    LIBC,
    Scene,
    Witness,
    fresh,
    pipe,
    play,
    play_strictly,
    run_script,
    running_loop,
    start,
    thread_name,
)

import hybridexec
from hybridexec import Detection, DetectorUnavailableError, UpcallKind

MONITORING = sys.monitoring
OURS = (3, 4)
"""The tool ids that the detector may take."""


@contextlib.contextmanager
def tool(number: int, name: str = "a tool of a test") -> Iterator[int]:
    """Another tool of ``sys.monitoring``."""
    MONITORING.use_tool_id(number, name)
    try:
        yield number
    finally:
        MONITORING.set_events(number, 0)
        MONITORING.free_tool_id(number)


@contextlib.contextmanager
def installed(how: str, function: Callable[..., Any]) -> Iterator[None]:
    """A trace or a profile function of the calling thread."""
    former: Any = sys.gettrace() if how == "trace" else sys.getprofile()
    install: Callable[[Any], None] = sys.settrace if how == "trace" else sys.setprofile
    install(function)
    try:
        yield
    finally:
        install(former)


# ---------------------------------------------------------------- a place in sys.monitoring


def test_one_tool_id_is_taken_while_any_loop_is_open() -> None:
    def ours() -> list[int]:
        return [number for number in range(6) if MONITORING.get_tool(number) == "hybridexec"]

    assert ours() == []
    first, second = hybridexec.new_event_loop(), hybridexec.new_event_loop()
    (taken,) = ours()
    assert taken in OURS
    first.close()
    assert ours() == [taken]
    second.close()
    assert ours() == []


@pytest.mark.parametrize("number", OURS)
def test_the_other_tool_id_is_taken_if_one_is_not_free(number: int) -> None:
    with tool(number), pipe() as (reader, writer):
        scene = play(functools.partial(os.read, reader, 1), functools.partial(os.write, writer, b"x"))
        assert scene.moved
        assert MONITORING.get_tool(number) == "a tool of a test"


def test_it_is_an_error_that_says_what_to_do_if_no_tool_id_is_free() -> None:
    async def main() -> None:
        pytest.fail("was run")

    with tool(OURS[0], "first"), tool(OURS[1], "second"):
        for make in (hybridexec.new_event_loop, hybridexec.HybridLoop):
            with pytest.raises(DetectorUnavailableError) as caught:
                make()
            message = str(caught.value)
            assert "first" in message
            assert "second" in message
            assert "free_tool_id" in message
        coroutine = main()
        with pytest.raises(DetectorUnavailableError):
            hybridexec.run(coroutine)
        coroutine.close()
        # The environment is wrong, not the program: asyncio's own loop works there.
        asyncio.run(asyncio.sleep(0))
    hybridexec.run(asyncio.sleep(0))


def test_an_interpreter_without_monitoring_is_told_what_it_lacks() -> None:
    with start("import sys; del sys.monitoring\nimport hybridexec") as process:
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "ImportError" in output
    assert "sys.monitoring" in output
    assert "CPython 3.12 or later" in output


def test_another_tool_sees_the_same_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that listens to the very events of the detector, and turns them off and on again for everybody."""
    seen: list[str] = []
    events = MONITORING.events
    reader, writer = os.pipe()

    def block() -> bytes:
        MONITORING.restart_events()
        return os.read(reader, 1)

    def on_call(code: types.CodeType, offset: int, callable: Any, argument: object) -> Any:
        if code is block.__code__:
            seen.append(callable.__name__)
        return MONITORING.DISABLE

    with tool(MONITORING.PROFILER_ID) as number:
        MONITORING.register_callback(number, events.CALL, on_call)
        MONITORING.set_events(number, events.CALL)
        for _ in range(3):
            scene = play(block, functools.partial(os.write, writer, b"x"))
            assert scene.moved
            assert scene.recorder.detections() == [Detection.DECLARED]
        MONITORING.register_callback(number, events.CALL, None)
    os.close(reader)
    os.close(writer)
    assert seen.count("read") == 3


# ---------------------------------------------------------------- coverage and profilers

SERVICE = """
import _thread, asyncio, ctypes, os, threading
import hybridexec

libc = ctypes.CDLL(None)


async def declared(reader):
    data = os.read(reader, 1)
    return data, _thread.get_ident() == threading.main_thread().ident


async def discovered(reader):
    data = bytes(1)
    libc.read(reader, data, 1)
    return data, _thread.get_ident() == threading.main_thread().ident


async def releases(writer):
    await asyncio.sleep(0)
    os.write(writer, b"x")
    return hybridexec.current_lwp().name


async def main():
    reader, writer = os.pipe()
    for blocks in declared, discovered:
        (data, home), name = await asyncio.gather(blocks(reader), releases(writer))
        assert len(data) == 1
        assert home != (name == "MainThread")


hybridexec.run(main())
"""


@pytest.mark.parametrize("core", ["ctrace", "pytrace", "sysmon"])
def test_coverage_sees_every_line_on_whichever_lwp(core: str, tmp_path: Path) -> None:
    program = tmp_path / "service.py"
    program.write_text(SERVICE)
    run_script("-m", "coverage", "run", "service.py", cwd=tmp_path, COVERAGE_CORE=core)
    measured = coverage.Coverage(data_file=tmp_path / ".coverage", config_file=False)
    measured.load()
    _, lines, _, missing, _ = measured.analysis2(str(program))
    assert len(lines) > 20
    assert missing == []


@pytest.mark.parametrize("kind", ["declared", "discovered"])
def test_a_profiler_counts_what_it_should(kind: str) -> None:
    with pipe() as (reader, writer):

        def traced() -> int:
            return len(os.read(reader, 1)) if kind == "declared" else LIBC.read(reader, bytes(1), 1)

        traced = fresh(traced)
        profiler = cProfile.Profile()
        with profiler:
            scene = play(traced, functools.partial(os.write, writer, b"x"))
        assert scene.moved
        assert scene.result == 1
        counts = {name: row[0] for (_, _, name), row in pstats.Stats(profiler).stats.items()}  # type: ignore[attr-defined]
        assert counts["traced"] == 1
        assert counts["blocker"] >= 1


@pytest.mark.parametrize("kind", ["declared", "discovered"])
@pytest.mark.parametrize("how", ["trace", "profile"])
def test_a_tracer_sees_all_that_its_step_does(how: str, kind: str) -> None:
    with pipe() as (reader, writer):
        events: list[tuple[str, int]] = []

        def traced() -> int:
            count = 0
            count += len(os.read(reader, 1)) if kind == "declared" else LIBC.read(reader, bytes(1), 1)
            return count

        traced = fresh(traced)
        first = traced.__code__.co_firstlineno

        def watch(frame: types.FrameType, event: str, argument: object) -> Any:
            if frame.f_code is traced.__code__:
                events.append((event, frame.f_lineno - first))
            return watch

        def block() -> int:
            with installed(how, watch):
                return traced()

        scene = play(block, functools.partial(os.write, writer, b"x"))
        assert scene.moved
        assert scene.held
        assert scene.result == 1
        if how == "trace":
            assert events == [("call", 0), ("line", 1), ("line", 2), ("line", 3), ("return", 3)]
        else:
            assert events[0] == ("call", 0)
            assert events[-1] == ("return", 3)
            assert events[1:3] == [("c_call", 2), ("c_return", 2)] or kind == "discovered"


@pytest.mark.parametrize("how", ["trace", "profile", "monitoring"])
def test_rule2_a_tracer_that_blocks(how: str) -> None:
    """While it runs no event comes: what it has interrupted must not go on without the loop all the same."""
    with pipe() as (reader, writer), contextlib.ExitStack() as stack:

        def marked() -> None:
            pass

        def watch(*arguments: Any) -> None:
            code = arguments[0] if how == "monitoring" else arguments[0].f_code
            if code is marked.__code__ and not blocked:
                blocked.append(True)
                LIBC.read(reader, bytes(1), 1)

        blocked: list[bool] = []
        watch = fresh(watch)

        def body(witness: Witness) -> None:
            if how == "monitoring":
                marked()
                witness.returned = True
            else:
                with installed(how, watch):
                    marked()
                    witness.returned = True

        if how == "monitoring":
            number = stack.enter_context(tool(MONITORING.PROFILER_ID))
            MONITORING.register_callback(number, MONITORING.events.PY_START, watch)
            stack.callback(MONITORING.register_callback, number, MONITORING.events.PY_START, None)
            MONITORING.set_local_events(number, marked.__code__, MONITORING.events.PY_START)
            stack.callback(MONITORING.set_local_events, number, marked.__code__, 0)
        recorder = play_strictly(body, functools.partial(os.write, writer, b"x"))
        assert blocked
        assert recorder.detections() == [Detection.DISCOVERED]


# ---------------------------------------------------------------- debuggers

BACKENDS: list[dict[str, Any]] = [{}] if sys.version_info < (3, 14) else [{}, {"backend": "monitoring"}]


class Prompt(io.StringIO):
    """A debugger's output, that tells when it waits for a command."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Event()

    def write(self, text: str) -> int:
        if "(Pdb)" in text:
            self.waits.set()
        return super().write(text)


def debugged(reader: int, output: io.StringIO, **options: Any) -> pdb.Pdb:
    """A debugger that reads its commands from a pipe."""
    commands = open(reader, closefd=False)  # noqa: SIM115
    return pdb.Pdb(stdin=commands, stdout=output, nosigint=True, readrc=False, **options)


@pytest.mark.parametrize(
    ("backend", "hold"),
    [*((backend, True) for backend in BACKENDS), *((backend, False) for backend in BACKENDS if backend)],
)
@pytest.mark.needs_stack
def test_the_loop_stays_while_a_debugger_waits_at_its_prompt(backend: dict[str, Any], hold: bool) -> None:
    """One that watches by ``sys.monitoring`` would be entered by other steps, too, so there is no choice."""
    with pipe() as (reader, writer):
        output = Prompt()
        debugger = debugged(reader, output, **backend)

        def user() -> None:
            """Types when the debugger waits, and takes his time: so the loop could go, were it to."""
            assert output.waits.wait(100)
            assert not scene_moved.wait(0.1)
            os.write(writer, b"p 6 * 7\ncontinue\n")

        scene_moved = threading.Event()
        typing = threading.Thread(target=user)
        typing.start()

        def stops() -> str:
            debugger.set_trace()
            return "goes on"

        scene = play(fresh(stops), scene_moved.set, hold_in_debugger=hold)
        typing.join()
        assert scene.stayed
        assert scene.result == "goes on"
        assert "42" in output.getvalue()
        assert scene.stats.handoffs == 0
        assert debugger.stdin is not None
        debugger.stdin.close()


@pytest.mark.needs_stack
def test_the_loop_leaves_a_debugger_if_it_is_told_to() -> None:
    """What the debugger waits for is typed by another task; and then the step waits for its turn."""
    with pipe() as (reader, writer):
        output = Prompt()
        debugger = debugged(reader, output)

        def body(witness: Witness) -> None:
            debugger.set_trace()
            witness.returned = True

        def types_in() -> None:
            assert output.waits.is_set()
            os.write(writer, b"continue\n")

        play_strictly(body, types_in, hold_in_debugger=False)
        assert debugger.stdin is not None
        debugger.stdin.close()


@pytest.mark.needs_stack
def test_a_program_under_pdb_stays_where_it_is() -> None:
    """The prompt of ``breakpoint()``, at a terminal's place: neither waiting nor a slow command lets others run."""
    program = """
        import asyncio, ctypes
        import hybridexec

        usleep = ctypes.CDLL(None).usleep
        ticks = 0

        async def ticker():
            global ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        async def main():
            task = asyncio.create_task(ticker())
            await asyncio.sleep(0)
            before = ticks
            breakpoint()
            assert ticks == before, (before, ticks)
            print("nothing", "ran", "on")
            task.cancel()

        hybridexec.run(main())
    """
    with start(program, PDBRC="", HOME=tempfile.gettempdir()) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = ""
        while "(Pdb)" not in said:
            letter = process.stdout.read(1)
            assert letter, said
            said += letter
        rest, _ = process.communicate("!usleep(60000)\nimport time; time.sleep(0.02)\ncontinue\n", timeout=100)
    assert process.returncode == 0, said + rest
    assert "nothing ran on" in rest


def test_a_program_that_a_debugger_runs_moves(tmp_path: Path) -> None:
    """The debugger is below the loop: that is not its prompt."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import asyncio, threading
            import hybridexec

            async def main():
                gate = threading.Event()
                asyncio.get_running_loop().call_soon(gate.set)
                gate.wait()
                print("moved")

            hybridexec.run(main())
            """
        )
    )
    said = run_script("-m", "pdb", "-c", "continue", "-c", "quit", str(program), cwd=tmp_path, HOME=str(tmp_path))
    assert "moved" in said


@pytest.mark.skipif(sys.version_info < (3, 14), reason="came with 3.14")
def test_asyncio_ps_shows_the_tasks_of_all_lwps() -> None:
    program = """
        import asyncio, os, threading
        import hybridexec

        async def blocks(gate):
            gate.wait()

        async def waits():
            await asyncio.sleep(60)

        async def main():
            gate = threading.Event()
            blocker = asyncio.create_task(blocks(gate), name="blocker")
            await asyncio.sleep(0)
            waiter = asyncio.create_task(waits(), name="waiter")
            await asyncio.sleep(0)
            print("ready", flush=True)
            await asyncio.to_thread(input)
            waiter.cancel()
            gate.set()
            await blocker

        hybridexec.run(main())
    """
    with start(program) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        command = [sys.executable, "-m", "asyncio", "ps", str(process.pid)]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=100)
        process.communicate("\n", timeout=100)
    assert process.returncode == 0
    if "ermission" in shown.stderr:
        pytest.skip(shown.stderr)
    expected = [("blocker", "blocks"), ("Task-1", "main")]
    if sys.version_info >= (3, 15):  # before, it shows the tasks that one thread has made, also of two plain loops
        expected.append(("waiter", "waits"))
    for name, function in expected:
        assert re.search(rf"{name} .*{function}", shown.stdout), shown.stdout + shown.stderr


@pytest.mark.needs_stack
@pytest.mark.parametrize("hold", [True, False])
def test_pydevd_is_known_by_its_files(hold: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in: pydevd waits in its own code, for what a user does in another process."""
    monkeypatch.setitem(sys.modules, "pydevd", types.ModuleType("pydevd"))
    source = "def wait_suspend(fd):\n    return os.read(fd, 1)\n"
    names: dict[str, Any] = {"os": os}
    exec(compile(source, "/somewhere/_vendored/pydevd/pydevd.py", "exec"), names)
    with pipe() as (reader, writer):
        release = functools.partial(os.write, writer, b"x")
        if hold:
            threading.Timer(0.05, release).start()
        scene = play(lambda: names["wait_suspend"](reader), release, hold_in_debugger=hold)
        assert scene.stayed is hold
        assert scene.moved is not hold


@pytest.mark.needs_stack
@pytest.mark.parametrize("name", ["appdb.py", "webdb.py", "pydevd_free.py"])
def test_a_program_is_not_a_debugger_by_its_name(name: str, tmp_path: Path) -> None:
    assert "bdb" in sys.modules
    path = tmp_path / name
    names: dict[str, Any] = {"os": os}
    exec(compile("def query(fd):\n    return os.read(fd, 1)\n", path, "exec"), names)
    with pipe() as (reader, writer):
        scene = play(lambda: names["query"](reader), functools.partial(os.write, writer, b"x"))
        assert scene.moved


# ---------------------------------------------------------------- names


def on_a_spare(look: Callable[[], object]) -> Scene:
    """Do something on a spare, while the home is blocked."""
    with pipe() as (reader, writer):

        def release() -> None:
            try:
                look()
            finally:
                os.write(writer, b"x")

        return play(functools.partial(os.read, reader, 1), release)


def test_an_lwp_has_one_name_everywhere() -> None:
    found: list[str | None] = []

    def look() -> None:
        lwp = hybridexec.current_lwp()
        assert lwp is not None
        found.append(lwp.name)
        found.append(thread_name())
        (listed,) = (thread for thread in threading.enumerate() if thread.ident == _thread.get_ident())
        found.append(listed.name)

    scene = on_a_spare(look)
    assert scene.moved
    started = [upcall.thread for upcall in scene.recorder.of(UpcallKind.LWP_STARTED)]
    assert len(found) == 3
    assert len(set(found)) == 1
    name = found[0]
    assert name in started
    assert name is not None
    assert name.removeprefix("hybridexec-lwp-").isdigit()


def test_the_interpreters_own_dump_shows_where_each_lwp_is() -> None:
    with tempfile.TemporaryFile("w+") as file:
        idents: list[int] = []

        def looks_at_threads() -> None:
            idents.append(_thread.get_ident())
            for _ in range(10_000):
                file.seek(0)
                file.truncate()
                faulthandler.dump_traceback(file)
                file.seek(0)
                if "<freed thread state>" not in file.read():  # one that just starts ends the dump, since 3.14
                    break

        assert on_a_spare(looks_at_threads).moved
        file.seek(0)
        dump = file.read()
    # (Before 3.14 it knows no names.  Since then it shows as much of one as the system keeps: 15 bytes on Linux.)
    (spare,) = (part for part in dump.split("\n\n") if f"{idents[0]:x}" in part)
    assert "in looks_at_threads" in spare
    assert ("hybridexec-lwp-" in spare) is (sys.version_info >= (3, 14))
    assert "most recent call first" in spare


# ---------------------------------------------------------------- tools that forbid blocking calls


def test_a_tool_that_forbids_blocking_calls_forbids_the_steps_alone() -> None:
    """It puts functions that raise in the place of methods by which LWPs sleep, and end."""

    async def blocks() -> None:
        with pipe() as (reader, writer):
            asyncio.get_running_loop().call_soon(LIBC.write, writer, b"x", 1)
            LIBC.read(reader, b" ", 1)  # which it does not know

    async def main() -> None:
        await asyncio.gather(*(fresh(blocks)() for _ in range(4)))
        lock = _thread.allocate_lock()
        lock.acquire()
        with pytest.raises(BlockingError):
            lock.acquire()

    with blockbuster_ctx():
        hybridexec.run(main())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hybridexec-lwp")]


# ---------------------------------------------------------------- tools that see all callbacks


@pytest.mark.parametrize("debug", [False, True])
def test_a_tool_that_has_replaced_what_runs_callbacks_sees_them_all(
    monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    """aiodebug does so, and others that tell of slow callbacks: those of loops that were there before, too."""
    seen: list[str] = []
    handle_run: Any = asyncio.Handle._run

    def instrumented(handle: asyncio.Handle) -> None:
        seen.append(repr(handle))
        handle_run(handle)

    async def blocks(reader: int) -> None:
        LIBC.read(reader, b" ", 1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pipe() as (reader, writer), pipe() as (watched, other):
            loop.call_soon(abs, 1)
            await asyncio.sleep(0)
            monkeypatch.setattr(asyncio.Handle, "_run", instrumented)
            loop.call_soon(bin, 1)
            loop.call_soon_threadsafe(hex, 1)
            loop.call_later(0, oct, 1)
            loop.add_reader(watched, loop.remove_reader, watched)
            os.write(other, b"x")
            task = asyncio.create_task(fresh(blocks)(reader))
            loop.call_soon(os.write, writer, b"x")
            await task
            await asyncio.sleep(0.001)
            monkeypatch.undo()
            assert running_loop().stats().handoffs == 1

    hybridexec.run(main(), engine="selector", debug=debug)
    assert not [text for text in seen if "abs(" in text]
    for what in ("bin(", "hex(", "oct(", "remove_reader(", "TaskStep", "write("):
        assert [text for text in seen if what in text], (what, seen)
