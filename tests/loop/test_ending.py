"""How a loop ends: run() returns, the loop is stopped, run again, closed, forgotten, with steps blocked or not."""

from __future__ import annotations

import _thread
import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import time
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from helpers import LIBC, fresh, lwps, pipe, running_loop, start, thread_name
from steps import Block, Step, declared, discovered, on_a_spare

import hybridexec
from hybridexec import HybridLoop, current_lwp

pytestmark = pytest.mark.differs_by_engine


# ---------------------------------------------------------------- run() returns


class _Ends(BaseException):
    pass


@pytest.mark.parametrize("how", [None, LookupError, _Ends, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
@pytest.mark.parametrize("where", ["home", "spare"])
def test_no_lwp_is_left_however_main_ends(where: str, how: type[BaseException] | None) -> None:
    """Other tasks are blocked when it ends: run() cancels them, and returns when they are over."""
    went_on: list[str] = []

    async def blocks(block: Callable[[int], object], reader: int) -> None:
        block(reader)
        try:
            await asyncio.sleep(60)
        finally:
            went_on.append("cancelled")

    async def main(reader: int, writer: int) -> str:
        if where == "spare":
            asyncio.get_running_loop().call_soon(os.write, writer, b"x")
            os.read(reader, 1)
            asyncio.get_running_loop().call_later(0.002, os.write, writer, b"x")
            LIBC.read(reader, b" ", 1)
        ways: list[Callable[[int], object]] = [lambda fd: os.read(fd, 1), lambda fd: LIBC.read(fd, b" ", 1)]
        tasks = [asyncio.create_task(blocks(block, reader)) for block in ways * 2]
        while running_loop().stats().lwps_blocked < len(tasks):
            await asyncio.sleep(0.001)
        asyncio.get_running_loop().call_later(0.002, os.write, writer, b"xxxx")
        if how is not None:
            raise how("over")
        return "over"

    with pipe() as (reader, writer):
        try:
            assert hybridexec.run(main(reader, writer)) == "over"
            assert how is None
        except BaseException as exc:
            assert type(exc) is how
    assert went_on == ["cancelled"] * 4
    assert not lwps()
    assert current_lwp() is None
    assert asyncio._get_running_loop() is None


def test_run_returns_on_its_thread_with_everything_put_back() -> None:
    def state() -> tuple[object, ...]:
        return (
            _thread.get_ident(),
            signal.getsignal(signal.SIGINT),
            signal.set_wakeup_fd(-1),
            vars(signal)["_signal"],
            sys.get_asyncgen_hooks(),
            sys.get_coroutine_origin_tracking_depth(),
            sys.monitoring.get_tool(3),
            sys.monitoring.get_tool(4),
        )

    async def main() -> None:
        asyncio.get_running_loop().call_soon(time.sleep, 0.001)
        time.sleep(0.002)
        await asyncio.sleep(0)

    before = state()
    hybridexec.run(main(), debug=True)
    assert state() == before


@pytest.fixture
def no_collector() -> Iterator[None]:
    """The garbage collector does nothing meanwhile, and has nothing to do afterwards."""
    hybridexec.run(asyncio.sleep(0))  # what is made once
    gc.collect()
    gc.disable()
    yield
    left = gc.collect()
    gc.enable()
    assert left == 0


@pytest.mark.usefixtures("no_collector")
def test_a_loop_that_ran_is_freed_when_it_is_closed() -> None:
    """Nothing keeps it: no thread, no watcher of forks, not the sampler; nor does it keep itself."""
    loops: list[weakref.ref[Any]] = []

    async def main() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.001) for _ in range(3)))
        time.sleep(0.002)
        LIBC.usleep(20_000)
        with hybridexec.blocking(), hybridexec.pinned():
            time.sleep(0.001)
        with hybridexec.bound():
            await asyncio.sleep(0)

    hybridexec.run(main())
    assert [loop() for loop in loops] == [None]


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("debug", [False, True])
def test_a_loop_that_was_used_in_other_ways_is_freed_when_it_is_closed(debug: bool) -> None:
    loop = hybridexec.new_event_loop()
    loop.set_debug(debug)
    loop.set_task_factory(asyncio.eager_task_factory)
    loop.add_signal_handler(signal.SIGUSR1, print)
    with pipe() as (reader, _):
        loop.add_reader(reader, print)
        loop.call_later(60, print)
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    assert not loop.remove_reader(reader)
    assert not loop.is_running()
    gone = weakref.ref(loop)
    del loop
    assert gone() is None


@pytest.mark.usefixtures("no_collector")
def test_a_loop_that_never_ran_is_freed_when_it_is_closed() -> None:
    loop = hybridexec.new_event_loop()
    loop.close()
    gone = weakref.ref(loop)
    del loop
    assert gone() is None


def test_async_generators_and_executors_are_shut_down_while_the_loop_moves() -> None:
    with pipe() as (reader, writer):
        order: list[str] = []

        async def generates() -> AsyncIterator[int]:
            try:
                yield 1
            finally:
                # Only another task of the ending loop releases this.
                asyncio.get_running_loop().call_soon(os.write, writer, b"x")
                os.read(reader, 1)
                order.append("generator")

        async def main() -> None:
            generator = generates()
            generators.append(generator)
            assert await anext(generator) == 1
            working = asyncio.get_running_loop().run_in_executor(None, work)
            working.add_done_callback(lambda _: order.append("told"))
            await asyncio.sleep(0)

        def work() -> None:
            time.sleep(0.01)
            order.append("executor")

        generators: list[AsyncIterator[int]] = []
        hybridexec.run(main())
        assert sorted(order) == ["executor", "generator", "told"]
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("asyncio_")]


# ---------------------------------------------------------------- closed


class Tells(logging.Handler):
    """Does something when the log says a certain thing."""

    def __init__(self, text: str, do: Callable[[], object]) -> None:
        super().__init__()
        self.text = text
        self.do = do
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """A line of the log."""
        if self.text in record.getMessage():
            self.told.append(record.getMessage())
            self.do()


def test_close_says_what_it_waits_for() -> None:
    """The blocked steps are released only when the log has named them; it says so after a second."""
    loop = hybridexec.new_event_loop()
    with Step(loop) as one, Step(loop) as other:

        def release() -> None:
            one.release()
            other.release()

        tells = Tells("the loop is closed and waits", release)
        logging.getLogger("hybridexec").addHandler(tells)
        try:
            on_a_spare(loop, one, other)
            loop.close()
        finally:
            logging.getLogger("hybridexec").removeHandler(tells)
        assert one.went_on.is_set()
        assert other.went_on.is_set()
    (told,) = tells.told
    head, *lines = told.splitlines()
    assert "waits for 2 blocked LWPs" in head
    assert len(lines) == 2
    assert all("posix.read" in line and "steps.py" in line and "Step.__call__" in line for line in lines)
    assert not lwps()


def test_close_says_nothing_when_the_steps_come_back_soon(caplog: pytest.LogCaptureFixture) -> None:
    loop = hybridexec.new_event_loop()
    with Step(loop) as step:
        on_a_spare(loop, step)
        timer = threading.Timer(0.01, step.release)
        timer.start()
        loop.close()
        timer.join()
        assert step.went_on.is_set()
    assert not caplog.records
    assert loop.is_closed()
    assert not lwps()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_step_that_ends_the_loop_while_it_is_closed(kind: type[BaseException]) -> None:
    """There is no run that could raise it: close does."""
    loop = hybridexec.new_event_loop()

    def then() -> None:
        raise kind(4)

    with Step(loop, then) as step:
        on_a_spare(loop, step)
        step.release()
        with pytest.raises(kind, match="4"):
            loop.close()
    assert loop.is_closed()
    assert not lwps()


def test_a_step_that_stops_the_loop_while_it_is_closed() -> None:
    loop = hybridexec.new_event_loop()
    with Step(loop, loop.stop) as step:
        on_a_spare(loop, step)
        step.release()
        loop.close()
        assert step.went_on.is_set()
    assert not lwps()


def test_steps_that_block_again_while_the_loop_is_closed_finish_one_after_the_other() -> None:
    loop = hybridexec.new_event_loop()
    inside = 0

    def then() -> None:
        nonlocal inside
        for _ in range(10):
            assert inside == 0
            inside += 1
            for _ in range(100):
                assert inside == 1
            inside -= 1
            time.sleep(0.0005)
            LIBC.usleep(100)
            with hybridexec.blocking():
                pass

    steps = [Step(loop, then) for _ in range(4)]
    on_a_spare(loop, *steps)
    for step in steps:
        step.release()
    loop.close()
    for step in steps:
        assert step.went_on.is_set()
        step.__exit__()
    assert not lwps()


@pytest.mark.parametrize("block", [declared, discovered])
def test_a_step_that_waits_for_another_one_while_the_loop_is_closed(block: Block) -> None:
    """Whether its call blocks cannot be told beforehand: the sampler sees that it does, and the other has its turn."""
    loop = hybridexec.new_event_loop()
    with pipe() as (reader, writer):

        def waits() -> None:
            other.release()
            fresh(block)(reader)
            assert other.went_on.is_set()
            order.append("over")

        order: list[str] = []
        with Step(loop, waits) as step, Step(loop, lambda: os.write(writer, b"x")) as other:
            on_a_spare(loop, step, other)
            step.release()
            loop.close()
        assert order == ["over"]
    assert not lwps()
    assert not [thread for thread in threading.enumerate() if thread.name == "hybridexec-sampler"]


def test_a_loop_is_closed_on_another_thread() -> None:
    loop = hybridexec.new_event_loop()
    with Step(loop) as step:
        on_a_spare(loop, step)
        step.release()
        thread = threading.Thread(target=loop.close)
        thread.start()
        thread.join()
        assert step.went_on.is_set()
    assert loop.is_closed()
    assert not lwps()


def test_a_loop_that_runs_cannot_be_closed_from_any_of_its_steps(loop: HybridLoop) -> None:
    refused: list[str] = []

    def closes() -> None:
        with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
            loop.close()
        refused.append(thread_name())

    def in_a_region() -> None:
        with hybridexec.blocking():
            closes()

    def stops() -> None:
        if len(refused) == 3:
            loop.stop()
        else:
            loop.call_later(0.001, stops)

    with Step(loop) as home:
        loop.call_soon(closes)
        loop.call_soon(home)
        loop.call_soon(in_a_region)
        loop.call_soon(closes)
        loop.call_soon(home.release)
        loop.call_soon(stops)
        loop.run_forever()
    assert refused[0] == "MainThread"
    assert all(name.startswith("hybridexec-lwp-") for name in refused[1:])


def test_a_region_cannot_close_the_loop_that_waits_for_it(loop: HybridLoop) -> None:
    """The loop does not run just then, but it could not be closed before its own caller is over."""
    stopped, refused = threading.Event(), threading.Event()

    def in_a_region() -> None:
        with hybridexec.blocking():
            stopped.wait()
            with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
                loop.close()
            refused.set()

    with Step(loop) as home:
        loop.call_soon(home)
        loop.call_soon(in_a_region)
        loop.call_soon(home.release)
        loop.call_soon(lambda: loop.call_soon(loop.stop))
        loop.run_forever()
        stopped.set()
        assert refused.wait(100)


def test_a_closed_loop_refuses_everything_as_asyncio_does() -> None:
    loop = hybridexec.new_event_loop()
    with Step(loop) as step:
        on_a_spare(loop, step)
        step.release()
        loop.close()
    loop.close()
    for call in (
        loop.run_forever,
        lambda: loop.call_soon(print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.call_later(0, print),
        lambda: loop.run_in_executor(None, print),
    ):
        with pytest.raises(RuntimeError, match="closed"):
            call()
    stats = loop.stats()
    assert (stats.lwps_alive, stats.lwps_blocked, stats.lwps_parked) == (0, 0, 0)
    assert stats.handoffs > 0


@pytest.mark.engine("selector", reason="uvloop keeps what has run on the main thread alive until it is closed")
def test_a_loop_that_is_forgotten_is_closed_with_a_warning() -> None:
    """As asyncio's; and the detector's tool id is given back."""
    loop = hybridexec.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    gone = weakref.ref(loop)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del loop
        gc.collect()
    categories = [warning.category for warning in caught if "unclosed event loop" in str(warning.message)]
    caught.clear()  # a warning keeps its source
    gc.collect()
    assert categories == [ResourceWarning]
    assert gone() is None


# ---------------------------------------------------------------- the end of the process


def test_a_process_ends_though_a_step_of_a_loop_that_nobody_closed_is_blocked() -> None:
    """LWPs are daemon threads, as those that asyncio.to_thread uses are not."""
    process = start("""
        import asyncio, os, sys
        import hybridexec

        home, writer = os.pipe()
        never, _ = os.pipe()

        async def blocks():
            os.read(never, 1)

        async def main():
            loop = asyncio.get_running_loop()
            loop.task = asyncio.create_task(blocks())
            loop.call_soon(loop.call_soon, os.write, writer, b"x")
            os.read(home, 1)  # meanwhile the other blocks on a spare
            print("blocked", loop.stats().lwps_blocked, flush=True)

        loop = hybridexec.new_event_loop()
        loop.run_until_complete(main())
        sys.exit(4)
    """)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 4, output
    assert "blocked 1" in output


@pytest.mark.parametrize("how", ["open", "runs"])
def test_finalizers_at_the_end_of_a_process_run_as_without_a_loop(how: str) -> None:
    """A loop that is still open, or runs in a daemon thread, has the detector on until the very end."""
    process = start(
        """
        import asyncio, os, sys, threading, time
        import hybridexec

        class Late:
            def __del__(self, write=os.write):
                try:
                    raise LookupError
                except LookupError:
                    write(1, b"handled")

        os.late = Late()  # lives until the modules go, in the reverse order of their import
        never, _ = os.pipe()
        begun = threading.Event()

        async def main(how):
            time.sleep(0.001)
            if how == "runs":
                asyncio.get_running_loop().call_soon(begun.set)
                os.read(never, 1)

        if sys.argv[1] == "open":
            loop = hybridexec.new_event_loop()
            loop.run_until_complete(main("open"))
        else:
            threading.Thread(target=hybridexec.run, args=[main("runs")], daemon=True).start()
            begun.wait()
        """,
        how,
    )
    output, _ = process.communicate(timeout=100)
    assert (process.returncode, output) == (0, "handled")
