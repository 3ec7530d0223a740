"""``blocking``, ``pinned``, ``bound``, ``register_blocking`` and ``current_lwp``."""

from __future__ import annotations

import _thread
import asyncio
import collections
import contextlib
import ctypes
import functools
import importlib
import logging
import os
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import LIBC, Recorder, fresh, holds, pipe, play, running_loop, thread_name

import hybridexec
from hybridexec import Detection, LwpState, UpcallKind
from hybridexec.detector.calls import Call
from hybridexec.protocol.lwp import LWP

# ---------------------------------------------------------------- blocking()


def test_what_follows_runs_without_the_loop() -> None:
    with pipe() as (reader, writer):

        def block() -> bytes:
            with hybridexec.blocking():
                with pytest.raises(RuntimeError):
                    asyncio.get_running_loop()
                return bytes(LIBC.read(reader, bytes(1), 1))

        scene = play(block, functools.partial(os.write, writer, b"x"))
        assert scene.moved
        assert scene.held
        assert scene.result == b"\0"
        assert scene.recorder.detections() == [Detection.EXPLICIT]


def test_a_region_lets_its_exceptions_through() -> None:
    def block() -> None:
        with hybridexec.blocking():
            raise LookupError("inside")

    scene = play(block)
    assert isinstance(scene.error, LookupError)
    assert scene.held


def test_a_region_in_a_region_does_nothing() -> None:
    with pipe() as (reader, writer):

        def block() -> None:
            with hybridexec.blocking():
                with hybridexec.blocking():
                    os.read(reader, 1)
                with pytest.raises(RuntimeError):
                    asyncio.get_running_loop()

        scene = play(block, functools.partial(os.write, writer, b"x"))
        assert scene.moved
        assert scene.error is None
        assert len(scene.recorder.of(UpcallKind.BLOCKED, "blocker")) == 1


def test_a_region_computes_beside_the_loop() -> None:
    """Python code in it runs while other steps do: it ends when one of them says so."""
    over = False

    def block() -> None:
        with hybridexec.blocking():
            while not over:
                pass

    def release() -> None:
        nonlocal over
        over = True

    assert play(block, release).moved


def test_a_region_object_may_be_entered_again() -> None:
    """One after the other, and one in the other."""
    region = hybridexec.blocking()

    def block() -> None:
        for _ in range(2):
            with region:
                with region, pytest.raises(RuntimeError):
                    asyncio.get_running_loop()
                with pytest.raises(RuntimeError):
                    asyncio.get_running_loop()
            assert holds(running_loop())

    scene = play(block)
    assert scene.error is None
    assert len(scene.recorder.of(UpcallKind.BLOCKED, "blocker")) == 2


def test_a_region_belongs_to_its_lwp() -> None:
    def block() -> None:
        before = hybridexec.current_lwp()
        assert before is not None
        with hybridexec.blocking():
            inside = hybridexec.current_lwp()
            assert inside is not None
            assert inside.ident == before.ident
            assert inside.state is LwpState.BLOCKED
        assert hybridexec.current_lwp() == before

    assert play(block).error is None


def test_a_callback_may_have_a_region() -> None:
    order: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        with pipe() as (reader, writer):

            def callback() -> None:
                with hybridexec.blocking():
                    os.read(reader, 1)
                order.append("returns")
                done.set()

            def release() -> None:
                order.append("releases")
                os.write(writer, b"x")

            loop.call_soon(callback)
            loop.call_soon(release)
            await done.wait()

    hybridexec.run(main())
    assert order == ["releases", "returns"]


@pytest.mark.parametrize("where", ["waits", "blocks"])
def test_a_signal_handler_may_have_regions(where: str) -> None:
    """They do nothing while the home has no step, and take their turn while it is blocked in one."""
    handled: list[int] = []

    def handler(number: int, frame: object) -> None:
        with hybridexec.blocking(), hybridexec.pinned(), hybridexec.bound():
            handled.append(number)

    async def main() -> None:
        with pipe() as (reader, writer):
            kill = functools.partial(os.kill, os.getpid(), signal.SIGUSR1)

            async def releases() -> None:
                kill()
                while not handled:
                    await asyncio.sleep(0.001)
                os.write(writer, b"x")

            if where == "blocks":
                task = asyncio.create_task(releases())
                os.read(reader, 1)
                await task
            else:
                # A thread that is none of the loop's sends it, when the home polls.
                sender = threading.Timer(0.01, kill)
                sender.start()
                while not handled:
                    await asyncio.sleep(0.02)
                sender.join()

    former = signal.signal(signal.SIGUSR1, handler)
    try:
        hybridexec.run(main())
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert handled == [signal.SIGUSR1]


def test_an_await_in_a_region_ends_it_and_is_told() -> None:
    told: list[str] = []

    async def body() -> None:
        with hybridexec.blocking():
            await asyncio.sleep(0)
            assert holds(asyncio.get_running_loop())

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["message"]))
        await asyncio.create_task(body())

    hybridexec.run(main())
    assert any("hybridexec.blocking()" in message for message in told)


@pytest.mark.parametrize("mode", ["handoff", "observe"])
def test_an_await_in_a_region_that_keeps_the_loop_is_told_as_well(mode: Any) -> None:
    """And the LWP looks again from then on."""
    told: list[str] = []
    recorder = Recorder()

    async def body(resume: asyncio.Event) -> None:
        pin = hybridexec.pinned() if mode == "handoff" else contextlib.nullcontext()
        region = hybridexec.blocking()
        with pin:
            region.__enter__()  # by hand: no code of a with statement is suspended
            await resume.wait()
            region.__exit__(None, None, None)

    async def blocks() -> None:
        time.sleep(0.002)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["message"]))
        resume = asyncio.Event()
        task = asyncio.create_task(body(resume))
        await asyncio.sleep(0)
        await asyncio.create_task(blocks(), name="blocks")
        resume.set()
        await task

    hybridexec.run(main(), mode=mode, instruments=[recorder])
    assert any("hybridexec.blocking()" in message for message in told)
    assert len(recorder.of(UpcallKind.BLOCKED, "blocks")) == 1


def test_a_signal_handler_may_enter_the_region_object_that_it_interrupts() -> None:
    region = hybridexec.blocking()

    def handler(number: int, frame: object) -> None:
        with region:
            pass

    async def main() -> None:
        reactions = running_loop()._reactions
        enter = reactions.enter

        def interrupted(lwp: LWP, call: Call) -> bool:
            reactions.enter = enter  # type: ignore[method-assign]
            signal.raise_signal(signal.SIGUSR1)  # in the middle of __enter__
            return enter(lwp, call)

        reactions.enter = interrupted  # type: ignore[method-assign]
        with region:
            time.sleep(0.002)
        assert holds(running_loop())

    former = signal.signal(signal.SIGUSR1, handler)
    try:
        hybridexec.run(main())
    finally:
        signal.signal(signal.SIGUSR1, former)


def test_regions_do_nothing_outside_of_a_loop() -> None:
    with hybridexec.blocking(), hybridexec.pinned(), hybridexec.bound():
        assert hybridexec.current_lwp() is None

    async def main() -> None:
        with hybridexec.blocking(), hybridexec.pinned(), hybridexec.bound():
            assert hybridexec.current_lwp() is None
            await asyncio.sleep(0)

    asyncio.run(main())


# ---------------------------------------------------------------- pinned()


def test_the_loop_stays_with_a_pinned_step() -> None:
    def block() -> None:
        with hybridexec.pinned():
            time.sleep(0.02)
            LIBC.usleep(20_000)
            with hybridexec.pinned():
                pass
            with hybridexec.blocking():
                assert holds(running_loop())
            time.sleep(0.002)

    scene = play(block)
    assert scene.error is None
    assert scene.stayed
    assert scene.stats.handoffs == 0
    assert scene.recorder.of(UpcallKind.BLOCKED, "blocker")


def test_a_pin_ends_with_its_region() -> None:
    with pipe() as (reader, writer):

        def block() -> None:
            with pytest.raises(LookupError), hybridexec.pinned():
                raise LookupError
            os.read(reader, 1)

        assert play(block, functools.partial(os.write, writer, b"x")).moved


def test_a_pin_lasts_over_awaits_and_is_the_tasks_own() -> None:
    order: list[str] = []

    async def pinned(entered: asyncio.Event, resume: asyncio.Event) -> None:
        with hybridexec.pinned():
            entered.set()
            await resume.wait()
            order.append("blocks")
            time.sleep(0.02)
            order.append("returns")

    async def main() -> None:
        entered, resume = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(pinned(entered, resume))
        await entered.wait()
        with pipe() as (reader, writer):
            # Another task's step, between two of the pinned one, does move the loop.
            asyncio.get_running_loop().call_soon(os.write, writer, b"x")
            os.read(reader, 1)
        handoffs = running_loop().stats().handoffs
        assert handoffs > 0
        resume.set()
        await asyncio.sleep(0)
        order.append("other")
        await task
        assert running_loop().stats().handoffs == handoffs

    hybridexec.run(main())
    assert order == ["blocks", "returns", "other"]


def test_the_pin_of_an_eager_task_is_not_its_parents() -> None:
    """It begins in its parent's step, which goes on when the child waits."""

    async def child(resume: asyncio.Event) -> None:
        with hybridexec.pinned():
            await resume.wait()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        resume = asyncio.Event()
        task = asyncio.create_task(child(resume))
        with pipe() as (reader, writer):
            loop.call_soon(os.write, writer, b"x")
            os.read(reader, 1)
        resume.set()
        await task

    hybridexec.run(main())


def test_an_eager_task_is_pinned_in_its_parents_step() -> None:
    order: list[str] = []

    async def child() -> None:
        with hybridexec.pinned():
            time.sleep(0.002)
            LIBC.usleep(20_000)
            order.append("child")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        loop.call_soon(order.append, "other")
        await asyncio.create_task(child())

    hybridexec.run(main())
    assert order[0] == "child"


def test_a_pin_may_be_part_of_a_context_manager_of_the_programs() -> None:
    @contextlib.contextmanager
    def undisturbed() -> Iterator[None]:
        with hybridexec.pinned():
            yield

    def block() -> None:
        with undisturbed():
            time.sleep(0.002)

    assert play(block).stayed


def test_a_pinned_callback_keeps_the_loop() -> None:
    order: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        pin = hybridexec.pinned()

        def callback() -> None:
            with pin, pin:
                time.sleep(0.002)
            order.append("callback")

        loop.call_soon(callback)
        loop.call_soon(order.append, "other")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pipe() as (reader, writer):  # the pin has ended with its callback
            loop.call_soon(os.write, writer, b"x")
            os.read(reader, 1)

    hybridexec.run(main())
    assert order == ["callback", "other"]


# ---------------------------------------------------------------- bound()


def test_a_bound_section_keeps_its_thread_and_lets_go() -> None:
    idents: list[int] = []

    async def section() -> None:
        with hybridexec.bound(), hybridexec.bound():
            for _ in range(20):
                idents.append(_thread.get_ident())
                await asyncio.sleep(0)

    async def blocks() -> None:
        for _ in range(10):
            time.sleep(0.0011)
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(section(), blocks(), blocks())
        assert not running_loop()._reactions.affinity.bound

    hybridexec.run(main())
    assert len(idents) == 20
    assert len(set(idents)) == 1


def test_a_bound_task_that_is_cancelled_lets_go() -> None:
    async def section(entered: asyncio.Event) -> None:
        with hybridexec.bound():
            entered.set()
            await asyncio.Event().wait()

    async def main() -> None:
        entered = asyncio.Event()
        task = asyncio.create_task(section(entered))
        await entered.wait()
        assert running_loop()._reactions.affinity.bound
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not running_loop()._reactions.affinity.bound

    hybridexec.run(main())


def test_what_is_bound_to_the_home_of_an_earlier_run_waits_for_that_and_the_log_says_so() -> None:
    """Two other threads run the loop in between; the first of these runs ends only when the log has spoken."""
    loop = hybridexec.new_event_loop()
    idents: list[int] = []
    told: list[str] = []
    heard = asyncio.Event()
    go_on = asyncio.Event()

    async def section() -> None:
        with hybridexec.bound():
            idents.append(_thread.get_ident())
            await go_on.wait()
            idents.append(_thread.get_ident())

    async def elsewhere() -> None:
        go_on.set()
        await heard.wait()
        assert len(idents) == 1

    class Tells(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())
            heard.set()

    handler = Tells()
    logging.getLogger("hybridexec").addHandler(handler)
    try:
        task = loop.create_task(section(), name="section")
        loop.run_until_complete(asyncio.sleep(0))
        for _ in range(2):
            thread = threading.Thread(target=lambda: loop.run_until_complete(elsewhere()))
            thread.start()
            thread.join()
        loop.run_until_complete(task)
    finally:
        logging.getLogger("hybridexec").removeHandler(handler)
        loop.close()
    (message,) = told
    assert "task 'section' is bound to MainThread" in message
    assert idents == [_thread.get_ident()] * 2
    assert not loop._carrying._absent


def test_a_task_is_bound_until_the_outermost_region_ends() -> None:
    async def main() -> None:
        bound = running_loop()._reactions.affinity.bound
        binding = hybridexec.bound()
        task = asyncio.current_task()
        with binding:
            with binding:
                assert task in bound
            assert task in bound
            with hybridexec.bound():
                pass
            assert task in bound
        assert not bound

    hybridexec.run(main())


def test_a_callback_cannot_be_bound() -> None:
    async def main() -> None:
        loop = running_loop()
        done = asyncio.Event()

        def callback() -> None:
            with hybridexec.bound():
                assert not loop._reactions.affinity.bound
            done.set()

        loop.call_soon(callback)
        await done.wait()

    hybridexec.run(main())


# ---------------------------------------------------------------- register_blocking()


def registered(will_block: Callable[[Any], bool | None] | None) -> Callable[[int], int]:
    """A C callable of its own that is in the catalogue: libc's ``read``, which nobody else has declared."""
    read = ctypes.CDLL(None).read
    hybridexec.register_blocking(read, will_block=will_block)
    return lambda fd: int(read(fd, bytes(1), 1))


def test_a_sure_callable_is_left_at_once() -> None:
    seen: list[Any] = []

    def judge(argument: Any) -> bool:
        seen.append(argument)
        return True

    read = registered(judge)
    with pipe() as (reader, writer):
        # The threshold is longer than the test may take: the sampler has no part in it.
        scene = play(lambda: read(reader), functools.partial(os.write, writer, b"x"), threshold=60)
        assert scene.moved
        assert seen == [reader]
        assert scene.recorder.detections() == [Detection.DECLARED]


@pytest.mark.parametrize("judgement", [None, lambda argument: None], ids=["none given", "cannot tell"])
def test_an_unsure_callable_is_retaken_after_the_threshold(judgement: Any) -> None:
    read = registered(judgement)
    with pipe() as (reader, writer):
        scene = play(lambda: read(reader), functools.partial(os.write, writer, b"x"))
        assert scene.moved
        assert scene.recorder.detections() == [Detection.DECLARED]


def test_a_callable_that_will_not_block_is_let_be() -> None:
    read = registered(lambda argument: False)
    with pipe() as (reader, writer):
        os.write(writer, b"x")
        scene = play(lambda: read(reader))
        assert scene.stayed
        assert not scene.recorder.of(UpcallKind.BLOCKED)


def test_a_judgement_that_raises_is_logged_and_counts_as_unknown(caplog: pytest.LogCaptureFixture) -> None:
    def judges(argument: Any) -> bool:
        raise LookupError("of the judgement")

    read = registered(judges)
    with pipe() as (reader, writer):
        scene = play(lambda: read(reader), functools.partial(os.write, writer, b"x"))
        assert scene.moved
        assert scene.error is None
    assert any(record.name == "hybridexec" and record.levelno >= logging.WARNING for record in caplog.records)


def test_a_callable_can_be_registered_while_a_loop_runs() -> None:
    read = ctypes.CDLL(None).read
    with pipe() as (reader, writer):

        def block() -> int:
            return int(read(reader, bytes(1), 1))

        block = fresh(block)

        async def main() -> None:
            os.write(writer, b"x")
            block()  # the site is found harmless
            hybridexec.register_blocking(read, will_block=lambda argument: True)
            asyncio.get_running_loop().call_soon(os.write, writer, b"x")
            block()
            assert running_loop().stats().handoffs == 1

        hybridexec.run(main(), threshold=60)


def test_a_judgement_is_told_the_first_argument() -> None:
    """``self`` of a method, however that is called; None if there is no argument."""
    seen: list[Any] = []

    def judge(argument: Any) -> bool:
        seen.append(argument)
        return False

    getpid = ctypes.CDLL(None).getpid
    hybridexec.register_blocking(getpid, will_block=judge)
    hybridexec.register_blocking("collections.deque.rotate", will_block=judge)
    things = collections.deque([1, 2, 3])

    def block() -> None:
        getpid()
        things.rotate(1)
        rotate = things.rotate
        rotate(1)
        collections.deque.rotate(things, 1)

    scene = play(block)
    assert scene.stayed
    assert list(things) == [1, 2, 3]
    assert [value is things for value in seen] == [False, True, True, True]
    assert seen[0] is None


def test_a_late_name_that_turns_out_to_be_python_is_let_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "late_python.py").write_text("def query():\n    return 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    hybridexec.register_blocking("late_python.query", will_block=lambda argument: True)
    try:
        scene = play(lambda: importlib.import_module("late_python").query())
        assert scene.result == 42
        assert not scene.recorder.of(UpcallKind.BLOCKED, "blocker")
    finally:
        sys.modules.pop("late_python", None)


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (None, TypeError, "callable=None"),
        (42, TypeError, "callable=<int>"),
        ("sleep", ValueError, "callable=<str of length 5>"),
        ("time.", ValueError, "callable=<str of length 5>"),
        ("no name", ValueError, "callable=<str of length 7>"),
        (lambda: None, TypeError, "implemented in Python"),
        (threading.Event, TypeError, "implemented in Python"),
        (threading.Event().wait, TypeError, "implemented in Python"),
        ("threading.Event.wait", TypeError, "implemented in Python"),
    ],
)
def test_what_cannot_be_registered_is_refused(wrong: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        hybridexec.register_blocking(wrong)
    assert says in str(caught.value)


@pytest.mark.parametrize("name", ["time.nope", "os.path.nope", "threading.Event.nope", "os.path.nope.nope"])
def test_a_name_that_its_module_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"callable='{name}': it does not exist, though its module is imported"):
        hybridexec.register_blocking(name)


@pytest.mark.parametrize("name", ["late_empty.query", "late_empty.Type.query", "late_empty.part.query"])
def test_a_late_name_that_its_module_does_not_have_is_told_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "late_empty.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    hybridexec.register_blocking(name)
    assert not caplog.messages
    try:
        for _ in range(2):
            play(lambda: [importlib.import_module("late_empty"), os.getpid()])
        said = (
            f"register_blocking({name!r}): it does not exist, though its module is imported; it is not in the catalogue"
        )
        assert [text for text in caplog.messages if "register_blocking" in text] == [said]
    finally:
        sys.modules.pop("late_empty", None)


def test_a_judge_that_raises_is_told_once_and_not_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[object] = []

    def judge(argument: object) -> bool:
        asked.append(argument)
        raise KeyError(argument)

    crc32 = zlib.crc32
    hybridexec.register_blocking(crc32, will_block=judge)

    async def main() -> None:
        for number in range(5):
            crc32(b"hunter2-%d" % number)

    hybridexec.run(main())
    assert asked == [b"hunter2-0"]
    (text,) = [text for text in caplog.messages if "will_block" in text]
    assert text.startswith("will_block of zlib.crc32 raised <KeyError> for <bytes of length 9> at ")
    assert "test_regions.py:" in text
    assert "hunter2" not in caplog.text


def test_a_judge_has_to_be_callable() -> None:
    with pytest.raises(TypeError, match="will_block=<bool>"):
        hybridexec.register_blocking(time.sleep, will_block=True)  # type: ignore[arg-type]


# ---------------------------------------------------------------- current_lwp()


def test_code_can_ask_for_its_lwp() -> None:
    assert hybridexec.current_lwp() is None

    async def main() -> None:
        home = hybridexec.current_lwp()
        assert home is not None
        assert home.name == threading.main_thread().name
        assert home.ident == _thread.get_ident()
        assert home.is_home
        assert home.state is LwpState.RUNNING
        assert await asyncio.to_thread(hybridexec.current_lwp) is None
        with pipe() as (reader, writer):

            async def spare() -> str:
                lwp = hybridexec.current_lwp()
                assert lwp is not None
                assert lwp.name == thread_name()
                assert not lwp.is_home
                os.write(writer, b"x")
                return lwp.name

            task = asyncio.create_task(spare())
            os.read(reader, 1)
            assert (await task).startswith("hybridexec-lwp-")

    hybridexec.run(main())
    assert hybridexec.current_lwp() is None


# ---------------------------------------------------------------- blocking(), used wrongly


def test_blocking_is_no_decorator() -> None:
    with pytest.raises(TypeError, match=r"no decorator: put `with hybridexec\.blocking\(\):` around"):

        @hybridexec.blocking()
        def function() -> None:
            pytest.fail("was run")


def test_an_await_inside_of_blocking_gets_a_sentence() -> None:
    async def main() -> None:
        with hybridexec.blocking():
            await asyncio.sleep(1)

    with pytest.raises(RuntimeError, match="no running event loop") as caught:
        hybridexec.run(main())
    (note,) = caught.value.__notes__
    assert "await before it or after it" in note
