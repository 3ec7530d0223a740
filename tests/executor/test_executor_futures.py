"""The executor as ``concurrent.futures`` has executors: submit, map, and what becomes of a future."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import gc
import threading
import traceback
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from executors import PATIENCE, every_model, every_moving, executing, forever, gate

from hybridexec import HybridExecutor


async def double(number: int, *, plus: int = 0) -> int:
    await asyncio.sleep(0)
    return 2 * number + plus


def triple(number: int, *, plus: int = 0) -> int:
    return 3 * number + plus


class Trouble(Exception):
    pass


@every_model
def test_functions_and_coroutine_functions_give_their_results(options: dict[str, Any]) -> None:
    with executing(**options) as executor:
        assert executor.submit(triple, 2, plus=1).result(PATIENCE) == 7
        assert executor.submit(double, 2, plus=1).result(PATIENCE) == 5
        assert executor.submit(functools.partial(double, 4), plus=1).result(PATIENCE) == 9
        assert executor.submit(functools.partial(triple, plus=1), 4).result(PATIENCE) == 13
        assert executor.submit(lambda: double(1)).result(PATIENCE) == 2  # whatever returns a coroutine
        assert executor.submit(len, "abc").result(PATIENCE) == 3


@every_model
@pytest.mark.parametrize("kind", ["function", "at once", "later"])
def test_exceptions_arrive_with_their_traceback(options: dict[str, Any], kind: str) -> None:
    def culprit() -> None:
        raise Trouble("here")

    async def at_once() -> None:
        culprit()

    async def later() -> None:
        await asyncio.sleep(0)
        culprit()

    fn: Any = {"function": culprit, "at once": at_once, "later": later}[kind]
    with executing(**options) as executor:
        exception = executor.submit(fn).exception(PATIENCE)
        assert isinstance(exception, Trouble)
        assert traceback.extract_tb(exception.__traceback__)[-1].name == "culprit"
        assert executor.submit(triple, 1).result(PATIENCE) == 3


@every_model
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("kind", ["function", "at once", "later"])
def test_what_would_end_a_loop_is_only_what_has_become_of_the_call(
    options: dict[str, Any], error: type[BaseException], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def function() -> None:
        raise error("now")

    async def at_once() -> None:
        raise error("now")

    async def later() -> None:
        await asyncio.sleep(0)
        raise error("now")

    fn: Any = {"function": function, "at once": at_once, "later": later}[kind]
    with executing(**options) as executor:
        assert isinstance(executor.submit(fn).exception(PATIENCE), error)
        assert executor.submit(double, 1).result(PATIENCE) == 2
    gc.collect()
    assert "never retrieved" not in caplog.text


@every_model
def test_a_future_runs_through_its_states_and_tells_who_asked(options: dict[str, Any]) -> None:
    told: list[concurrent.futures.Future[Any]] = []
    with gate() as closed, executing(**options) as executor:
        future = executor.submit(closed.enter, "result")
        future.add_done_callback(told.append)
        closed.reached()
        assert future.running()
        assert not future.done()
        assert not future.cancel()
        with pytest.raises(TimeoutError):
            future.result(0)
        with pytest.raises(TimeoutError):
            future.exception(0)
        closed.open()
        assert future.result(PATIENCE) == "result"
        assert future.exception() is None
        assert future.done()
        assert not future.running()
        assert not future.cancel()
    assert told == [future]
    future.add_done_callback(told.append)
    assert told == [future, future]


@every_moving
def test_as_completed_and_wait(options: dict[str, Any]) -> None:
    with gate() as first, gate() as second, executing(**options) as executor:
        futures = [executor.submit(second.enter_async, "later"), executor.submit(first.enter, "sooner")]
        assert not concurrent.futures.wait(futures, 0).done
        order = concurrent.futures.as_completed(futures, PATIENCE)
        first.open()
        assert next(order).result() == "sooner"
        done, _ = concurrent.futures.wait(futures, PATIENCE, concurrent.futures.FIRST_COMPLETED)
        assert {future.result() for future in done} == {"sooner"}
        second.open()
        assert next(order).result() == "later"
        failing = executor.submit(len, 1)  # type: ignore[call-overload]
        done, _ = concurrent.futures.wait([failing], PATIENCE, concurrent.futures.FIRST_EXCEPTION)
        assert done == {failing}
        assert isinstance(failing.exception(), TypeError)


# ---------------------------------------------------------------- cancelling


@every_model
def test_a_running_coroutine_is_cancelled_as_its_task_is(options: dict[str, Any]) -> None:
    cleaned = threading.Event()

    async def waits(started: threading.Event) -> None:
        try:
            await forever(started)
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    with executing(**options) as executor:
        started = threading.Event()
        future = executor.submit(waits, started)
        assert started.wait(PATIENCE)
        assert future.cancel()
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(PATIENCE)
        assert cleaned.is_set()
        assert future.cancelled()
        assert future.cancel()
        assert concurrent.futures.wait([future], PATIENCE).done == {future}


@every_model
def test_a_coroutine_may_refuse_to_be_cancelled(options: dict[str, Any]) -> None:
    async def refuses(started: threading.Event) -> str:
        try:
            await forever(started)
        except asyncio.CancelledError:
            return "refused"
        return "?"

    with executing(**options) as executor:
        started = threading.Event()
        future = executor.submit(refuses, started)
        assert started.wait(PATIENCE)
        assert future.cancel()
        assert future.result(PATIENCE) == "refused"


def test_what_has_not_started_is_cancelled_at_once_and_never_called() -> None:
    called: list[int] = []
    with gate() as closed, executing(model="n:1") as executor:
        executor.submit(closed.enter)
        closed.reached()
        futures = [executor.submit(called.append, number) for number in range(3)]
        assert futures[1].cancel()
        assert futures[1].cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            futures[1].result(0)
        assert concurrent.futures.wait([futures[1]], 0).done == {futures[1]}
        closed.open()
    assert called == [0, 2]


@every_moving
def test_a_coroutine_that_blocks_in_its_first_step_can_be_cancelled_meanwhile(options: dict[str, Any]) -> None:
    async def blocks() -> None:
        closed.enter()
        await forever()

    with gate() as closed, executing(**options) as executor:
        future = executor.submit(blocks)
        closed.reached()
        assert future.cancel()
        closed.open()
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(PATIENCE)


# ---------------------------------------------------------------- map


@every_model
def test_map_keeps_the_order(options: dict[str, Any]) -> None:
    with executing(**options) as executor:
        assert list(executor.map(double, range(50))) == [2 * number for number in range(50)]
        assert list(executor.map(pow, [2, 3], [3, 2])) == [8, 9]


def test_map_stops_at_the_first_exception_and_cancels_the_rest() -> None:
    started: list[int] = []

    def call(number: int) -> int:
        started.append(number)
        if number == 1:
            raise Trouble
        return number

    with gate() as closed, executing(model="n:1") as executor:
        results = executor.map(call, range(3))
        assert next(results) == 0
        with pytest.raises(Trouble):
            next(results)
        closed.open()


def test_map_has_a_time_limit() -> None:
    with gate() as closed, executing() as executor:
        results = executor.map(closed.enter, ["x"], timeout=0)
        with pytest.raises(TimeoutError):
            next(results)
        closed.open()


def test_a_closed_map_cancels_what_is_left() -> None:
    with executing() as executor:
        started = threading.Event()

        async def call(number: int) -> int:
            if number == 1:
                await forever(started)
            return number

        results = executor.map(call, range(2))
        assert next(results) == 0
        assert started.wait(PATIENCE)
        assert isinstance(results, Iterator)
        results.close()  # type: ignore[attr-defined]
    # leaving the block waits for the second call, which would last for ever


@pytest.mark.parametrize("buffersize", [1, 2, 5])
def test_map_reads_on_only_as_results_are_taken(buffersize: int) -> None:
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(8):
            read.append(number)
            yield number

    with executing() as executor:
        results = executor.map(double, numbers(), buffersize=buffersize)
        assert read == list(range(buffersize))
        for taken in range(8):
            assert next(results) == 2 * taken
            assert len(read) == min(taken + 1 + buffersize, 8)
        assert list(results) == []


def test_map_reads_everything_at_once_without_a_buffer_size() -> None:
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(4):
            read.append(number)
            yield number

    with executing() as executor:
        results: Iterator[int] = executor.map(triple, numbers())
        assert read == [0, 1, 2, 3]
        assert list(results) == [0, 3, 6, 9]


def test_an_unfinished_map_does_not_keep_its_executor_busy() -> None:
    executor = HybridExecutor()
    results = executor.map(triple, [1, 2, 3], buffersize=1)
    executor.shutdown()
    assert next(iter([3])) == 3
    with pytest.raises(RuntimeError):
        next(results)


# ---------------------------------------------------------------- context, memory


@every_model
def test_a_call_runs_in_a_copy_of_the_callers_context(options: dict[str, Any]) -> None:
    variable = contextvars.ContextVar("variable", default="default")
    variable.set("mine")

    def function() -> str:
        seen = variable.get()
        variable.set("theirs")
        return seen

    async def coroutine() -> str:
        await asyncio.sleep(0)
        return function()

    with executing(**options) as executor:
        assert executor.submit(function).result(PATIENCE) == "mine"
        assert executor.submit(coroutine).result(PATIENCE) == "mine"
    assert variable.get() == "mine"


@every_model
def test_nothing_is_kept_of_a_call_that_is_over(options: dict[str, Any]) -> None:
    class Thing:
        pass

    def fails(thing: Thing) -> None:
        raise Trouble

    with executing(**options) as executor:
        gc.disable()
        try:
            thing = Thing()
            gone = weakref.ref(thing)
            future = executor.submit(lambda thing: None, thing)
            future.result(PATIENCE)
            del thing
            executor.submit(triple, 1).result(PATIENCE)  # the step before is over
            assert gone() is None
            thing = Thing()
            gone = weakref.ref(thing)
            failed = executor.submit(fails, thing)
            assert isinstance(failed.exception(PATIENCE), Trouble)
            del thing, failed
            executor.submit(triple, 1).result(PATIENCE)
            assert gone() is None
        finally:
            gc.enable()
