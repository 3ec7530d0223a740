"""Rule 7: nothing lost.

That the loop has moved is proved by causality: a step blocks on what only another task of the same loop can release.
"""

from __future__ import annotations

import _thread
import asyncio
import collections
import contextvars
import functools
import os
import random
import threading
import time
from typing import Any

import pytest
from helpers import (
    LIBC,
    Recorder,
    lwps,
    pipe,
    play,
)
from steps import block_the_home, write_to

import hybridexec
from hybridexec import UpcallKind

pytestmark = [pytest.mark.differs_by_engine, pytest.mark.differs_by_version]


def test_rule7_each_callback_runs_once() -> None:
    runs: collections.Counter[int] = collections.Counter()
    numbers = iter(range(100_000))
    scheduled: list[int] = []

    def callback(number: int) -> None:
        runs[number] += 1
        if number % 7 == 0:
            time.sleep(0.001)

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def another() -> int:
            number = next(numbers)
            scheduled.append(number)
            return number

        def outside() -> None:
            for _ in range(100):
                loop.call_soon_threadsafe(callback, another())

        thread = threading.Thread(target=outside)
        thread.start()
        for _ in range(100):
            loop.call_soon(callback, another())
            loop.call_later(random.random() * 0.02, callback, another())
        cancelled = [loop.call_soon(callback, -1) for _ in range(20)]
        cancelled += [loop.call_later(0.001, callback, -2) for _ in range(20)]
        for handle in cancelled:
            handle.cancel()
        while len(runs) < 300:
            await asyncio.sleep(0.001)
        thread.join()

    hybridexec.run(main())
    assert sorted(runs) == sorted(scheduled) == list(range(300))
    assert set(runs.values()) == {1}


def test_rule7_what_a_blocked_step_shares_its_context_with_is_run_all_the_same() -> None:
    """A context that is entered cannot be entered again: who shares it waits until the step is over."""
    order: list[str] = []
    context = contextvars.copy_context()
    with pipe() as (reader, writer):

        def blocks() -> None:
            os.read(reader, 1)
            order.append("blocked step")

        async def main() -> None:
            loop = asyncio.get_running_loop()
            done = asyncio.Event()
            loop.call_soon(blocks, context=context)
            for number in range(5):
                loop.call_soon(order.append, f"shares {number}", context=context)
            loop.call_soon(order.append, "does not share")
            loop.call_soon(os.write, writer, b"x")
            loop.call_soon(done.set, context=context)
            await done.wait()

        hybridexec.run(main())
        assert order[0] == "does not share"
        assert order[1:] == ["blocked step", *(f"shares {number}" for number in range(5))]


def test_rule7_a_result_and_an_exception_arrive_from_a_spare() -> None:
    with pipe() as (reader, writer):

        async def blocks() -> None:
            os.read(reader, 1)

        async def raises() -> None:
            assert _thread.get_ident() != threading.main_thread().ident
            raise LookupError("from a spare")

        async def returns() -> int:
            assert _thread.get_ident() != threading.main_thread().ident
            os.write(writer, b"x")
            return 42

        async def main() -> tuple[Any, ...]:
            return await asyncio.gather(blocks(), raises(), returns(), return_exceptions=True)

        _, error, value = hybridexec.run(main())
        assert isinstance(error, LookupError)
        assert str(error) == "from a spare"
        assert value == 42


def test_rule7_exceptions_of_callbacks_reach_the_exception_handler() -> None:
    with pipe() as (reader, writer):
        caught: list[BaseException] = []

        def raises_at_once() -> None:
            raise LookupError("at once")

        def raises_after_a_block() -> None:
            os.read(reader, 1)
            raise LookupError("after a block")

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda loop, context: caught.append(context["exception"]))
            loop.call_soon(raises_after_a_block)
            loop.call_soon(raises_at_once)
            loop.call_soon(os.write, writer, b"x")
            while len(caught) < 2:
                await asyncio.sleep(0)

        hybridexec.run(main())
        assert [str(exc) for exc in caught] == ["at once", "after a block"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_rule7_what_ends_the_loop_on_a_spare_reaches_the_caller(kind: type[BaseException]) -> None:
    with pipe() as (reader, writer):
        finished: list[str] = []

        async def blocks() -> None:
            try:
                os.read(reader, 1)
                await asyncio.sleep(60)
            finally:
                finished.append("blocks")

        async def ends_it() -> None:
            assert _thread.get_ident() != threading.main_thread().ident
            os.write(writer, b"x")
            raise kind("from a spare")

        async def main() -> None:
            await asyncio.gather(blocks(), ends_it())

        with pytest.raises(kind, match="from a spare"):
            hybridexec.run(main())
        assert finished == ["blocks"]
        assert not lwps()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_rule7_what_ends_the_loop_after_a_block_reaches_the_caller(kind: type[BaseException]) -> None:
    async def main() -> None:
        await block_the_home(write_to)
        time.sleep(0.002)
        raise kind("after a block")

    with pytest.raises(kind, match="after a block"):
        hybridexec.run(main())
    assert not lwps()


def test_rule7_no_lwp_is_left_when_main_raises_while_others_are_blocked() -> None:
    with pipe() as (reader, writer):
        went_on: list[bool] = []

        async def blocks() -> None:
            os.read(reader, 1)
            went_on.append(True)

        async def main() -> None:
            tasks = [asyncio.create_task(blocks()) for _ in range(3)]
            await asyncio.sleep(0)
            # Only the cancelling of what is left over, which waits for the tasks, lets this go on.
            asyncio.get_running_loop().call_later(0.01, os.write, writer, b"xxx")
            assert tasks
            raise LookupError("main")

        with pytest.raises(LookupError, match="main"):
            hybridexec.run(main())
        assert went_on == [True] * 3
        assert not lwps()


def test_rule7_close_waits_for_blocked_steps() -> None:
    with pipe() as (home_reader, home_writer), pipe() as (reader, writer):
        loop = hybridexec.new_event_loop()
        order: list[str] = []

        def blocks() -> None:
            os.write(home_writer, b"x")  # only from another LWP: the home waits for it
            os.read(reader, 1)
            order.append("went on")

        def stops() -> None:
            order.append("stops")
            loop.stop()

        async def main() -> None:
            await asyncio.sleep(0)

        loop.call_soon(os.read, home_reader, 1)
        loop.call_soon(blocks)
        loop.call_soon(stops)
        loop.run_forever()
        assert order == ["stops"]
        timer = threading.Timer(0.02, os.write, (writer, b"x"))
        timer.start()
        loop.run_until_complete(main())
        loop.close()
        timer.join()
        assert order == ["stops", "went on"]
        assert loop.is_closed()
        assert not lwps()


def test_rule7_a_cancelled_blocked_task_gets_its_cancellation_at_its_next_await() -> None:
    with pipe() as (reader, writer):
        order: list[str] = []

        async def blocks() -> None:
            try:
                os.read(reader, 1)
                order.append("goes on")
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                order.append("is cancelled")
                raise

        async def main() -> None:
            task = asyncio.create_task(blocks())
            await asyncio.sleep(0)
            assert task.cancel()
            order.append("cancels")
            os.write(writer, b"x")
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()

        hybridexec.run(main())
        assert order == ["cancels", "goes on", "is cancelled"]


def test_rule7_a_timeout_fires_while_its_task_is_blocked() -> None:
    with pipe() as (reader, writer):
        order: list[str] = []

        async def blocks() -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.005):
                    os.read(reader, 1)
                    order.append("goes on")
                    await asyncio.sleep(60)
            order.append("times out")

        async def releases() -> None:
            await asyncio.sleep(0.02)
            os.write(writer, b"x")

        async def main() -> None:
            await asyncio.gather(blocks(), releases())

        hybridexec.run(main())
        assert order == ["goes on", "times out"]


def test_rule7_context_variables_and_the_current_task_survive_a_block() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")

    async def task(number: int) -> None:
        variable.set(number)
        me = asyncio.current_task()
        for _ in range(5):
            time.sleep(0.001)
            assert variable.get() == number
            assert asyncio.current_task() is me
            assert asyncio.get_running_loop() is not None
            LIBC.usleep(1000)
            assert asyncio.current_task() is me
            await asyncio.sleep(0)
            assert variable.get() == number
            assert asyncio.current_task() is me

    async def main() -> None:
        await asyncio.gather(*(asyncio.create_task(task(number)) for number in range(10)))

    hybridexec.run(main())


def test_rule7_exhaustion_is_told_and_everything_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """Every LWP is blocked on what a thread outside of the loop releases when it is told so."""
    with pipe() as (reader, writer):
        told: list[hybridexec.Upcall] = []

        class Releases(hybridexec.Instrument):
            def exhausted(self, upcall: hybridexec.Upcall) -> None:
                told.append(upcall)
                os.write(writer, b"xxx")

        async def blocks() -> None:
            os.read(reader, 1)

        async def main() -> None:
            await asyncio.gather(*(asyncio.create_task(blocks(), name=f"blocker-{n}") for n in range(3)))

        hybridexec.run(main(), max_lwps=3, instruments=[Releases()])
        assert [upcall.kind for upcall in told] == [UpcallKind.EXHAUSTED]
        warnings = [record.getMessage() for record in caplog.records if "max_lwps" in record.getMessage()]
        assert len(warnings) == 1
        assert all(f"blocker-{n}" in warnings[0] for n in range(3))
        assert warnings[0].count("test_rule7_nothing_lost.py") == 3


def test_rule7_exhaustion_by_locks_names_the_locks(caplog: pytest.LogCaptureFixture) -> None:
    locks = [threading.Lock(), threading.Lock()]

    class Releases(hybridexec.Instrument):
        def exhausted(self, upcall: hybridexec.Upcall) -> None:
            for lock in locks:
                lock.release()

    async def blocks(lock: threading.Lock) -> None:
        lock.acquire()

    async def main() -> None:
        await asyncio.gather(*map(blocks, locks))

    for lock in locks:
        lock.acquire()
    hybridexec.run(main(), max_lwps=2, instruments=[Releases()])
    warnings = [record.getMessage() for record in caplog.records if "max_lwps" in record.getMessage()]
    assert len(warnings) == 1
    assert "waits for a lock" in warnings[0]
    assert warnings[0].count("<lock> 0x") == 2
    assert "test_rule7_nothing_lost.py" in warnings[0]


def test_rule7_loops_follow_each_other_on_one_thread() -> None:
    for _ in range(10):
        with pipe() as (reader, writer):
            scene = play(functools.partial(os.read, reader, 1), functools.partial(os.write, writer, b"x"))
        assert scene.moved
        assert not lwps()


def test_rule7_two_loops_run_side_by_side() -> None:
    recorders = [Recorder(), Recorder()]

    async def main() -> None:
        for _ in range(5):
            await block_the_home(write_to)

    def home(recorder: Recorder) -> None:
        hybridexec.run(main(), instruments=[recorder])

    threads = [threading.Thread(target=home, args=(recorder,)) for recorder in recorders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for recorder in recorders:
        assert len({id(upcall.loop) for upcall in recorder.of(UpcallKind.BLOCKED)}) == 1
        assert len(recorder.of(UpcallKind.BLOCKED)) >= 5
    assert not lwps()


def test_rule7_what_asyncio_raises_out_of_run_ends_the_run_also_on_a_spare() -> None:
    class Unprintable:
        def __call__(self) -> None:
            raise LookupError

        def __repr__(self) -> str:
            raise ZeroDivisionError("nobody can print it")

    async def main() -> None:
        with pipe() as (reader, writer):
            loop = asyncio.get_running_loop()

            def fails() -> None:
                assert _thread.get_ident() != threading.main_thread().ident
                loop.call_soon(Unprintable())
                loop.call_soon(os.write, writer, b"x")

            loop.call_soon(fails)
            os.read(reader, 1)
            await asyncio.Event().wait()

    with pytest.raises(ZeroDivisionError, match="nobody can print it"):
        hybridexec.run(main())
