"""block_on: synchronous code in a step waits for an awaitable, and the loop continues (hybridexec/loop/awaiting.py).

What is waited for is brought about by another task of the same loop: a wait in which the loop stands still never ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import itertools
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from typing import Any

import anyio
import pytest
from helpers import ENGINES, here, holds, lwps, pipe, running_loop

import hybridexec
from hybridexec import HybridExecutor, block_on

pytestmark = [pytest.mark.differs_by_engine, pytest.mark.differs_by_version]

value: contextvars.ContextVar[str] = contextvars.ContextVar("value", default="none")


class Meeting:
    """Two tasks of one loop meet: the first waits, and the second, which begins behind it, ends that."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def wait(self, result: str = "met") -> str:
        """Wait for the second."""
        await self.event.wait()
        return result

    async def end(self) -> None:
        """The second."""
        self.event.set()


async def beside(first: Callable[[Meeting], Any]) -> Any:
    """Run synchronous code in a task, and end what it waits for in another one."""
    meeting = Meeting()

    async def waits() -> Any:
        return first(meeting)

    task: asyncio.Task[Any] = asyncio.create_task(waits(), name="waits")
    ends = asyncio.create_task(meeting.end())
    result = await task
    await ends
    return result


async def on_spare(code: Callable[[], Awaitable[Any]]) -> Any:
    """Run a coroutine function in a step of its own on a spare, while the home is blocked."""
    with pipe() as (reader, writer):
        home = asyncio.create_task(_blocks(reader))
        try:
            await asyncio.sleep(0)
            return await asyncio.create_task(code())  # type: ignore[arg-type]
        finally:
            os.write(writer, b"x")
            await home


async def _blocks(reader: int) -> None:
    os.read(reader, 1)


def cancelled_by_another(code: Callable[[], Any], *, message: str | None = None) -> tuple[Any, asyncio.Task[Any]]:
    """What synchronous code in a task returns that another task cancels, and the task."""

    async def victim() -> Any:
        return code()

    async def main() -> tuple[Any, asyncio.Task[Any]]:
        task = asyncio.create_task(victim())
        await asyncio.sleep(0)
        task.cancel(message)
        await asyncio.wait([task])
        return asyncio.CancelledError() if task.cancelled() else task.result(), task

    return hybridexec.run(main())


def is_plain(task: asyncio.Task[Any]) -> bool:
    """Whether a task's methods are those of its class again."""
    return all(getattr(task, name).__self__ is task for name in ("cancel", "cancelling", "uncancel"))


def forever() -> Coroutine[Any, Any, None]:
    """What nobody ends."""
    return asyncio.Event().wait()  # type: ignore[return-value]


# ---------------------------------------------------------------- what is ready


class Ready:
    """Awaitable, and no coroutine."""

    def __await__(self) -> Generator[Any, Any, str]:
        return "ready"
        yield


async def ready() -> str:
    """Waits for nothing."""
    return "ready"


@pytest.mark.parametrize("kind", ["coroutine", "object", "future", "in time"])
def test_what_is_ready_costs_no_switch(kind: str) -> None:
    async def main() -> tuple[str, int, bool]:
        loop = running_loop()
        future: asyncio.Future[str] = loop.create_future()
        future.set_result("ready")
        lwp = here()
        result: str
        if kind == "in time":
            result = block_on(ready(), timeout=60)
        else:
            awaitables: dict[str, Awaitable[str]] = {"coroutine": ready(), "object": Ready(), "future": future}
            result = block_on(awaitables.pop(kind))
            for other in awaitables.values():
                await other
        return result, loop.stats().awaits, here() is lwp

    assert hybridexec.run(main()) == ("ready", 0, True)


# ---------------------------------------------------------------- the loop continues


@pytest.mark.parametrize("place", ["home", "spare"])
def test_the_loop_continues_while_a_step_waits(place: str) -> None:
    def waits(meeting: Meeting) -> tuple[str, bool]:
        lwp = here()
        return block_on(meeting.wait()), here() is lwp and holds(running_loop())

    async def main() -> tuple[Any, int]:
        loop = running_loop()
        if place == "home":
            return await beside(waits), loop.stats().awaits
        return await on_spare(lambda: beside(waits)), loop.stats().awaits

    assert hybridexec.run(main()) == (("met", True), 1)


def test_what_awaits_itself_waits_for_another_thread() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()
        threading.Thread(target=loop.call_soon_threadsafe, args=(future.set_result, "set")).start()
        return block_on(future)

    assert hybridexec.run(main()) == "set"


def test_waits_nest() -> None:
    """A thread each: what the outermost awaits calls synchronous code that awaits."""

    async def inner(depth: int, meeting: Meeting) -> int:
        await asyncio.sleep(0)
        return 0 if depth == 0 else 1 + block_on(inner(depth - 1, meeting))

    async def main() -> int:
        return int(await beside(lambda meeting: block_on(inner(20, meeting))))

    assert hybridexec.run(main()) == 20


def test_many_wait_at_a_time_beside_steps_that_block() -> None:
    """They do not count against ``max_lwps``: the blocks end by what the last one of them brings about."""

    async def main() -> list[str]:
        meeting = Meeting()
        with pipe() as (reader, writer):

            async def waits() -> str:
                return block_on(meeting.wait())

            async def reads() -> str:
                os.read(reader, 1)
                return "read"

            async def ends() -> str:
                os.write(writer, b"x")
                await asyncio.sleep(0)
                meeting.event.set()
                return "ended"

            return await asyncio.gather(*(waits() for _ in range(20)), reads(), ends())

    assert hybridexec.run(main(), max_lwps=3) == ["met"] * 20 + ["read", "ended"]


def test_the_step_is_the_next_when_what_it_awaits_has_come() -> None:
    order: list[str] = []

    async def main() -> None:
        meeting = Meeting()

        async def waits() -> None:
            block_on(meeting.wait())
            order.append("waits")

        async def ends() -> None:
            meeting.event.set()
            for name in "abc":  # behind what wakes the first, and before its step, were it a task's
                asyncio.get_running_loop().call_soon(order.append, name)

        await asyncio.gather(waits(), ends())

    hybridexec.run(main())
    assert order == ["waits", "a", "b", "c"]


def test_an_executor_s_function_waits() -> None:
    async def main(meeting: Meeting) -> str:
        await meeting.end()
        return "ended"

    meetings: list[Meeting] = []

    def waits() -> str:
        meeting = Meeting()
        meetings.append(meeting)
        return block_on(meeting.wait())

    with HybridExecutor() as executor:
        first = executor.submit(waits)
        while not meetings:
            pass
        second = executor.submit(main, meetings[0])
        assert (first.result(60), second.result(60)) == ("met", "ended")


# ---------------------------------------------------------------- whose task, whose context


def test_it_is_the_caller_s_task_and_context() -> None:
    async def inner(meeting: Meeting) -> tuple[Any, Any, str]:
        first = asyncio.current_task()
        value.set("before")
        await meeting.wait()
        seen = value.get()
        value.set("after")
        return first, asyncio.current_task(), seen

    def waits(meeting: Meeting) -> None:
        task = asyncio.current_task()
        value.set("outside")
        assert block_on(inner(meeting)) == (task, task, "before")
        assert asyncio.current_task() is task
        assert value.get() == "after"

    async def main() -> None:
        await beside(waits)

    hybridexec.run(main())


def test_a_context_within_the_task_s_is_copied() -> None:
    async def inner(meeting: Meeting) -> str:
        await meeting.wait()
        value.set(value.get() + ", after")
        return value.get()

    def within(meeting: Meeting) -> tuple[str, str]:
        value.set("within")
        return block_on(inner(meeting)), value.get()

    async def main() -> tuple[str, str]:
        return await beside(lambda meeting: contextvars.copy_context().run(within, meeting))

    assert hybridexec.run(main()) == ("within, after", "within")


def test_a_callback_that_is_no_task_s_waits() -> None:
    async def main() -> tuple[str, Any]:
        meeting = Meeting()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[tuple[str, Any]] = loop.create_future()
        loop.call_soon(lambda: done.set_result((block_on(meeting.wait()), asyncio.current_task())))
        loop.call_soon(meeting.event.set)
        return await done

    assert hybridexec.run(main()) == ("met", None)


def test_an_eager_task_waits_in_its_parent_s_step() -> None:
    async def eager(meeting: Meeting) -> tuple[str, bool]:
        value.set("eager")
        asyncio.get_running_loop().call_soon(meeting.event.set)
        return block_on(inner(meeting)), asyncio.current_task() is not asyncio.tasks.current_task() or True

    async def inner(meeting: Meeting) -> str:
        await meeting.wait()
        return value.get()

    async def main() -> tuple[str, str]:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        value.set("parent")
        result, _ = await asyncio.create_task(eager(Meeting()))
        return result, value.get()

    assert hybridexec.run(main()) == ("eager", "parent")


def test_somebody_else_s_step_in_the_same_context_is_waited_for() -> None:
    """The step cannot enter its context while a step that blocks is in it; the one behind that releases it."""
    order: list[str] = []

    async def main() -> None:
        meeting = Meeting()
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        with pipe() as (reader, writer):

            async def waits() -> None:
                block_on(meeting.wait())
                order.append("waits")

            def blocks() -> None:
                meeting.event.set()
                os.read(reader, 1)
                order.append("blocks")

            task = asyncio.create_task(waits(), context=context)
            loop.call_soon(blocks, context=context)
            for _ in range(5):
                await asyncio.sleep(0)
            assert not task.done()
            os.write(writer, b"x")
            await task

    hybridexec.run(main())
    assert order == ["blocks", "waits"]


# ---------------------------------------------------------------- what comes up


class Ends(BaseException):
    """Neither an Exception, nor one that ends a loop."""


@pytest.mark.parametrize("kind", [LookupError, Ends, asyncio.CancelledError])
def test_what_the_awaitable_raises_comes_up(kind: type[BaseException]) -> None:
    raised = kind("raised")

    async def inner(meeting: Meeting) -> None:
        await meeting.wait()
        raise raised

    def waits(meeting: Meeting) -> BaseException:
        with pytest.raises(kind) as caught:
            block_on(inner(meeting))
        return caught.value

    async def main() -> BaseException:
        return await beside(waits)

    assert hybridexec.run(main()) is raised


def test_a_future_of_another_loop_is_refused() -> None:
    other = asyncio.new_event_loop()
    future = other.create_future()

    async def inner() -> None:
        await future

    async def main() -> None:
        block_on(inner())

    with pytest.raises(RuntimeError, match="attached to a different loop"):
        hybridexec.run(main())
    other.close()


def test_what_no_loop_understands_is_refused() -> None:
    class Odd:
        def __await__(self) -> Generator[Any, Any, None]:
            yield "odd"

    async def main() -> None:
        block_on(Odd())

    with pytest.raises(RuntimeError, match=r"block_on\(\) got a bad yield: <str of length 3>"):
        hybridexec.run(main())


# ---------------------------------------------------------------- cancellation


@pytest.mark.parametrize("message", [None, "why"])
def test_a_cancellation_comes_up_once(message: str | None) -> None:
    log: list[Any] = []

    def waits() -> None:
        try:
            block_on(forever())
        except asyncio.CancelledError as exc:
            log.append(exc.args)
            raise

    result, task = cancelled_by_another(waits, message=message)
    assert isinstance(result, asyncio.CancelledError)
    assert task.cancelled()
    assert task.cancelling() == 1
    assert log == [() if message is None else (message,)]


def test_a_cancellation_that_is_caught_does_not_come_up_again() -> None:
    async def victim() -> list[Any]:
        task: Any = asyncio.current_task()
        log: list[Any] = []
        try:
            block_on(forever())
        except asyncio.CancelledError:
            log.append(task.cancelling())
        await asyncio.sleep(0)
        log.append(task.uncancel())
        log.append(block_on(asyncio.sleep(0, "slept")))
        await asyncio.sleep(0)
        return [*log, task.cancelling(), is_plain(task)]

    async def main() -> list[Any]:
        task = asyncio.create_task(victim())
        await asyncio.sleep(0)
        task.cancel()
        return await task

    assert hybridexec.run(main()) == [1, 0, "slept", 0, True]


def test_a_cancellation_reaches_what_the_awaitable_awaits() -> None:
    log: list[str] = []

    async def inner() -> str:
        try:
            await forever()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            log.append("cleaned up")
        return "not given in"

    result, task = cancelled_by_another(lambda: block_on(inner()))
    assert result == "not given in"
    assert log == ["cleaned up"]
    assert not task.cancelled()


def test_a_task_that_was_cancelled_before_it_waits_is_cancelled_as_it_does() -> None:
    async def victim() -> str:
        task: Any = asyncio.current_task()
        task.cancel()
        try:
            block_on(forever() if hybridexec.loop.awaiting._FORGETS else asyncio.sleep(0))
        except asyncio.CancelledError:
            return "cancelled"
        try:
            await forever()
        except asyncio.CancelledError:
            return "cancelled at the next await"
        return "not cancelled"

    async def main() -> str:
        return await asyncio.create_task(victim())

    expected = "cancelled" if hybridexec.loop.awaiting._FORGETS else "cancelled at the next await"
    assert hybridexec.run(main()) == expected


@pytest.mark.parametrize("by", ["another", "itself"])
def test_a_cancellation_that_comes_too_late_for_the_awaitable_is_the_task_s(by: str) -> None:
    async def inner(reader: int) -> str:
        await asyncio.sleep(0)
        if by == "itself":
            task: Any = asyncio.current_task()
            task.cancel()
        else:
            os.read(reader, 1)
        return "result"

    async def victim(reader: int) -> None:
        assert block_on(inner(reader)) == "result"
        await forever()

    async def main() -> bool:
        with pipe() as (reader, writer):
            task = asyncio.create_task(victim(reader))
            if by == "another":
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                task.cancel()
                os.write(writer, b"x")
            await asyncio.wait([task])
            assert task.cancelling() == 1
            return task.cancelled()

    assert hybridexec.run(main())


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="asyncio.current_task() does not know of them there")
def test_tasks_in_python_are_cancelled() -> None:
    async def main() -> bool:
        make: Any = asyncio.tasks._PyTask  # type: ignore[attr-defined]

        async def victim() -> None:
            block_on(forever())

        task = make(victim(), loop=asyncio.get_running_loop())
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return bool(task.cancelled())

    assert hybridexec.run(main())


def test_the_innermost_wait_is_cancelled() -> None:
    log: list[str] = []

    async def inner() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            log.append("inner")
            raise

    async def outer() -> None:
        await asyncio.sleep(0)
        try:
            block_on(inner())
        finally:
            log.append("outer")

    async def victim() -> None:
        block_on(outer())

    async def main() -> None:
        task = asyncio.create_task(victim())
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()

    hybridexec.run(main())
    assert log == ["inner", "outer"]


async def _timeout_around() -> None:
    async with asyncio.timeout(0):
        block_on(forever())


async def _timeout_inside() -> None:
    async def inner() -> None:
        async with asyncio.timeout(0):
            await forever()

    block_on(inner())


async def _wait_for() -> None:
    block_on(asyncio.wait_for(forever(), 0))


async def _own_timeout() -> None:
    block_on(forever(), timeout=0)


async def _timeout_in_anyio() -> None:
    with anyio.fail_after(0):
        block_on(forever())


@pytest.mark.parametrize(
    "waits", [_timeout_around, _timeout_inside, _wait_for, _own_timeout, _timeout_in_anyio], ids=lambda f: f.__name__
)
def test_timeouts_end_it(waits: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def inner() -> int:
        with pytest.raises(TimeoutError):
            await waits()
        await asyncio.sleep(0)
        task: Any = asyncio.current_task()
        return int(task.cancelling())

    async def main() -> int:
        return await asyncio.create_task(inner())

    assert hybridexec.run(main()) == 0


def test_a_result_in_spite_of_the_timeout_wins() -> None:
    async def inner() -> str:
        try:
            await forever()
        except asyncio.CancelledError:
            return "result"
        return "none"

    async def main() -> str:
        return block_on(inner(), timeout=0)

    assert hybridexec.run(main()) == "result"


def test_a_task_group_inside_ends_by_its_child() -> None:
    async def fails() -> None:
        raise LookupError("child")

    async def inner() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            await forever()

    async def outer() -> int:
        with pytest.raises(ExceptionGroup) as caught:
            block_on(inner())
        assert caught.group_contains(LookupError)
        await asyncio.sleep(0)
        task: Any = asyncio.current_task()
        return int(task.cancelling())

    async def main() -> int:
        return await asyncio.create_task(outer())

    assert hybridexec.run(main()) == 0


def test_a_task_group_around_cancels_it() -> None:
    log: list[str] = []

    async def fails() -> None:
        raise LookupError("child")

    async def waits() -> None:
        try:
            block_on(forever())
        finally:
            log.append("ended")

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits())
            group.create_task(fails())

    with pytest.raises(ExceptionGroup):
        hybridexec.run(main())
    assert log == ["ended"]


# ---------------------------------------------------------------- the loop ends


def test_run_ends_what_still_waits() -> None:
    log: list[str] = []

    async def waits() -> None:
        try:
            block_on(forever())
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    async def main() -> str:
        tasks = [asyncio.create_task(waits()) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)
        return "main"

    assert hybridexec.run(main()) == "main"
    assert log == ["cancelled"] * 3


def test_a_wait_lasts_from_one_run_to_the_next() -> None:
    """It is a spare's: the home is needed to stop the loop, and its steps are cancelled for that after a while."""
    loop = hybridexec.new_event_loop()
    meetings: list[Meeting] = []

    async def waits() -> str:
        return block_on(meetings[0].wait())

    async def begins() -> asyncio.Task[str]:
        meetings.append(Meeting())
        task: asyncio.Task[str] = asyncio.create_task(waits())
        await asyncio.sleep(0)
        return task

    async def ends(task: asyncio.Task[str]) -> str:
        meetings[0].event.set()
        return await task

    task = loop.run_until_complete(on_spare(begins))
    assert loop.run_until_complete(ends(task)) == "met"
    loop.close()


def test_a_home_that_waits_stops_the_loop_in_the_end() -> None:
    loop = hybridexec.new_event_loop()
    log: list[str] = []

    async def stubborn() -> None:
        for _ in range(2):
            try:
                block_on(forever())
            except asyncio.CancelledError:
                log.append("cancelled")

    async def main() -> None:
        tasks.append(asyncio.create_task(stubborn()))
        await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    loop.run_until_complete(main())
    assert log == ["cancelled"] * 2
    loop.close()


def test_a_home_whose_wait_is_on_top_of_another_one_stops_the_loop() -> None:
    """What it awaits waits in turn, on a spare."""
    loop = hybridexec.new_event_loop()

    async def inner() -> None:
        await asyncio.sleep(0)
        block_on(forever())

    async def waits() -> None:
        block_on(inner())

    async def main() -> None:
        tasks.append(asyncio.create_task(waits()))
        for _ in range(5):
            await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    loop.run_until_complete(main())
    assert tasks[0].cancelled() or loop.run_until_complete(asyncio.wait(tasks))
    loop.close()


def test_a_run_that_fails_does_not_wait_for_its_home() -> None:
    async def fails() -> None:
        raise SystemExit(3)

    async def main() -> None:
        task = asyncio.create_task(fails())
        block_on(forever())
        await task

    with pytest.raises(SystemExit):
        hybridexec.run(main())


def test_closing_waits_for_what_a_step_awaits_that_runs_elsewhere() -> None:
    loop = hybridexec.new_event_loop()
    results: list[Any] = []
    with pipe() as (reader, writer):

        async def inner() -> str:
            await asyncio.sleep(0)
            os.read(reader, 1)
            return "returned"

        async def waits() -> None:
            results.append(block_on(inner()))

        async def begins() -> asyncio.Task[None]:
            task = asyncio.create_task(waits())
            for _ in range(5):
                await asyncio.sleep(0)
            return task

        task = loop.run_until_complete(on_spare(begins))
        threading.Timer(0.2, os.write, (writer, b"x")).start()
        loop.close()
    assert results == ["returned"]
    assert task.done()


def test_what_is_awaited_cleans_up_in_its_context_when_the_loop_is_closed() -> None:
    loop = hybridexec.new_event_loop()
    seen: list[str] = []

    async def inner() -> None:
        token = value.set("inside")
        try:
            await forever()
        finally:
            seen.append(value.get())
            value.reset(token)

    async def waits() -> None:
        value.set("outside")
        block_on(inner())

    async def begins() -> asyncio.Task[None]:
        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        return task

    task = loop.run_until_complete(on_spare(begins))
    loop.close()
    assert seen == ["inside"]
    assert task.cancelled()


def test_closing_ends_what_waits_on_spares() -> None:
    loop = hybridexec.new_event_loop()
    log: list[str] = []

    async def waits() -> None:
        try:
            block_on(forever())
        except asyncio.CancelledError as exc:
            log.append(str(exc))
            with pytest.raises(RuntimeError, match="the event loop is closed"):
                block_on(asyncio.sleep(0))
            raise

    async def begins() -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(waits()) for _ in range(2)]
        await asyncio.sleep(0)
        return tasks

    tasks = loop.run_until_complete(on_spare(begins))
    loop.close()
    assert log == ["the event loop is closed"] * 2
    assert all(task.cancelled() for task in tasks)
    assert not lwps()


def test_what_does_not_give_in_when_the_loop_is_closed_is_closed() -> None:
    loop = hybridexec.new_event_loop()
    log: list[Any] = []

    async def stubborn() -> None:
        try:
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await forever()
        finally:
            log.append("closed")

    async def waits() -> None:
        block_on(stubborn())

    async def begins() -> asyncio.Task[None]:
        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        return task

    task = loop.run_until_complete(on_spare(begins))
    loop.close()
    assert log == ["closed"]
    assert task.cancelled()


# ---------------------------------------------------------------- where it cannot be


@contextlib.contextmanager
def refused(match: str) -> Iterator[None]:
    """The awaitable never begins, or ends by an exception; it is not left behind unawaited."""
    with pytest.raises(RuntimeError, match=match):
        yield
    gc.collect()


def test_there_has_to_be_a_step() -> None:
    with refused("there is none on this thread: use hybridexec.run"):
        block_on(ready())


def test_another_loop_cannot_move() -> None:
    async def main() -> None:
        with refused("another one, which cannot move"):
            block_on(ready())

    asyncio.run(main())


def test_another_thread_has_no_step() -> None:
    async def main() -> None:
        def elsewhere() -> None:
            with refused("there is none on this thread"):
                block_on(ready())

        await asyncio.to_thread(elsewhere)

    hybridexec.run(main())


def test_a_region_without_the_loop_has_none() -> None:
    async def main() -> None:
        with hybridexec.blocking(), refused("whose body runs without the loop"):
            block_on(ready())

    hybridexec.run(main())


@pytest.mark.parametrize("way", ["pinned", "bound", "observe"])
def test_where_the_loop_stays_only_what_is_ready_is_returned(way: str) -> None:
    cleaned_up: list[str] = []

    async def waits() -> None:
        try:
            await forever()
        finally:
            cleaned_up.append(way)

    async def main() -> None:
        ways: dict[str, Callable[[], Any]] = {"pinned": hybridexec.pinned, "bound": hybridexec.bound}
        with ways.get(way, contextlib.nullcontext)():
            assert block_on(ready()) == "ready"
            with refused("is bound to its thread" if way == "bound" else "the loop must not move"):
                block_on(waits())

    hybridexec.run(main(), mode="observe" if way == "observe" else "handoff")
    assert cleaned_up == [way]


def test_what_is_pinned_or_bound_in_there_holds_for_that_task_alone() -> None:
    async def inner(leave: asyncio.Event) -> list[int]:
        await asyncio.sleep(0)
        idents = []
        with hybridexec.pinned(), hybridexec.bound():
            for _ in range(5):
                await asyncio.sleep(0)
                idents.append(threading.get_native_id())
            await leave.wait()
        return idents

    async def main() -> None:
        leave = asyncio.Event()

        async def waits() -> list[int]:
            return block_on(inner(leave))

        async def others() -> str:
            for _ in range(9):
                await asyncio.sleep(0)
            result = str(await beside(lambda meeting: block_on(meeting.wait())))
            with pipe() as (reader, writer):
                asyncio.get_running_loop().call_soon(os.write, writer, b"x")
                os.read(reader, 1)
            leave.set()
            return result

        idents, met = await asyncio.gather(waits(), others())
        assert len(set(idents)) == 1
        assert met == "met"

    hybridexec.run(main())


def test_a_step_without_a_task_has_a_timeout() -> None:
    async def main() -> BaseException:
        loop = asyncio.get_running_loop()
        raised: asyncio.Future[BaseException] = loop.create_future()

        def callback() -> None:
            with pytest.raises(TimeoutError) as caught:
                block_on(forever(), timeout=0)
            assert block_on(ready(), timeout=60) == "ready"
            raised.set_result(caught.value)

        loop.call_soon(callback)
        return await raised

    assert isinstance(hybridexec.run(main()), TimeoutError)


def test_mode_raise_allows_what_is_said_to_wait() -> None:
    async def main() -> str:
        return str(await beside(lambda meeting: block_on(meeting.wait())))

    assert hybridexec.run(main(), mode="raise") == "met"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_protocol_s_method_waits_where_the_engine_lets_it(engine: Any) -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[str] = loop.create_future()
        meeting = Meeting()

        class Server(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                asyncio.get_running_loop().call_soon(meeting.event.set)
                try:
                    done.set_result(block_on(meeting.wait()))
                except RuntimeError as exc:
                    done.set_result(str(exc))

        server = await loop.create_server(Server, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x")
        result = await done
        writer.close()
        server.close()
        return result

    result = hybridexec.run(main(), engine=engine)
    assert result == "met" or (engine == "uvloop" and "a protocol's method on uvloop" in result)


def test_no_more_than_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hybridexec.loop.awaiting, "LEAST_BOUND", 2)

    async def main() -> list[Any]:
        meeting = Meeting()

        async def waits() -> str:
            return block_on(meeting.wait())

        tasks = [asyncio.create_task(waits()) for _ in range(3)]
        await asyncio.sleep(0)
        meeting.event.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    *met, refused = hybridexec.run(main(), max_lwps=2)
    assert met == ["met"] * 2
    assert isinstance(refused, RuntimeError)
    assert "2 steps do so already" in str(refused)


def test_a_system_without_threads_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        carrying = running_loop()._carrying
        monkeypatch.setattr(carrying, "leave", lambda *_: False)
        with refused("no thread to carry the loop"):
            block_on(forever())
        assert not carrying.awaiting

    hybridexec.run(main())


@pytest.mark.parametrize("wrong", [None, 5, "text", ready])
def test_what_cannot_be_awaited_is_refused(wrong: Any) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match=r"awaitable=.*: allowed is what `await` takes") as caught:
            block_on(wrong)
        assert "text" not in str(caught.value)

    hybridexec.run(main())


@pytest.mark.parametrize(("timeout", "error"), [("1", TypeError), (True, TypeError), (float("nan"), ValueError)])
def test_a_wrong_timeout_is_refused(timeout: Any, error: type[Exception]) -> None:
    async def main() -> None:
        with pytest.raises(error, match=r"timeout=.*: allowed are None and seconds"):
            block_on(ready(), timeout=timeout)

    hybridexec.run(main())


def test_a_time_that_is_over_is_a_timeout() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            block_on(forever(), timeout=-1)
        assert block_on(ready(), timeout=float("inf")) == "ready"

    hybridexec.run(main())


@pytest.mark.parametrize("timeout", [None, 60])
def test_a_task_cannot_await_itself(timeout: float | None) -> None:
    async def main() -> None:
        task: Any = asyncio.current_task()
        with pytest.raises(RuntimeError, match="awaits the task that it is called in"):
            block_on(task, timeout=timeout)

    hybridexec.run(main())


# ---------------------------------------------------------------- finalizers and signals


def test_a_finalizer_waits() -> None:
    results: list[str] = []

    class Finalized:
        def __del__(self) -> None:
            meeting = Meeting()
            running_loop().call_soon(meeting.event.set)
            results.append(block_on(meeting.wait()))

    async def main() -> None:
        one = Finalized()
        del one
        asyncio.get_running_loop().call_soon(lambda _: None, Finalized())  # dropped when the step has ended
        while len(results) < 2:
            await asyncio.sleep(0)

    hybridexec.run(main())
    assert results == ["met"] * 2


@pytest.mark.parametrize("place", ["step", "blocked", "waiting"])
def test_a_signal_handler_waits_as_the_step_does_that_it_interrupts(place: str) -> None:
    results: list[str] = []

    async def main() -> None:
        meeting, outer = Meeting(), Meeting()
        loop = asyncio.get_running_loop()

        def handler(*_: object) -> None:
            loop.call_soon(meeting.event.set)
            results.append(block_on(meeting.wait()))
            outer.event.set()
            os.write(writer, b"x")

        before = signal.signal(signal.SIGUSR1, handler)
        try:
            with pipe() as (reader, writer):
                if place == "step":
                    signal.raise_signal(signal.SIGUSR1)
                else:
                    loop.call_soon(threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGUSR1)).start)
                if place == "waiting":
                    block_on(outer.wait())
                else:
                    os.read(reader, 1)
        finally:
            signal.signal(signal.SIGUSR1, before)

    hybridexec.run(main())
    assert results == ["met"]


def test_a_signal_handler_waits_longer_than_the_step_that_it_interrupts() -> None:
    """The step's wait is over while the handler, on top of it, still has one."""
    results: list[str] = []

    async def main() -> None:
        step, handler = Meeting(), Meeting()
        loop = asyncio.get_running_loop()

        def handle(*_: object) -> None:
            loop.call_soon(step.event.set)
            loop.call_later(0.05, handler.event.set)
            results.append(block_on(handler.wait("handler")))

        before = signal.signal(signal.SIGUSR1, handle)
        try:
            loop.call_soon(threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGUSR1)).start)
            results.append(block_on(step.wait("step")))
        finally:
            signal.signal(signal.SIGUSR1, before)

    hybridexec.run(main())
    assert results == ["handler", "step"]


class Struck(Exception):
    """What a signal handler raises."""


def test_what_a_signal_handler_raises_comes_up_in_the_step_that_waits() -> None:
    log: list[str] = []

    async def inner() -> None:
        asyncio.get_running_loop().call_soon(threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGUSR1)).start)
        try:
            await forever()
        finally:
            log.append("cancelled")

    async def main() -> None:
        def handler(*_: object) -> None:
            raise Struck

        before = signal.signal(signal.SIGUSR1, handler)
        try:
            with pytest.raises(Struck):
                block_on(inner())
            log.append("struck")
        finally:
            signal.signal(signal.SIGUSR1, before)

    hybridexec.run(main())
    assert log == ["cancelled", "struck"]


@pytest.mark.parametrize("whose", ["main", "another"])
def test_ctrl_c_ends_a_wait(whose: str) -> None:
    log: list[str] = []

    async def waits() -> None:
        comes = threading.Thread(target=signal.raise_signal, args=(signal.SIGINT,))
        asyncio.get_running_loop().call_soon(comes.start)
        try:
            block_on(forever())
        finally:
            log.append("ended")

    async def main() -> None:
        await (waits() if whose == "main" else asyncio.create_task(waits()))

    with pytest.raises(KeyboardInterrupt):
        hybridexec.run(main())
    assert log == ["ended"]


# ---------------------------------------------------------------- all at once


@pytest.mark.parametrize("seed", range(3))
def test_waits_cancellations_and_blocks_beside_each_other(seed: int) -> None:
    """Each task ends as it would on a coroutine's way, and none is lost."""
    import random

    chance = random.Random(seed)
    numbers = itertools.count()

    async def waits(depth: int) -> int:
        await asyncio.sleep(chance.choice([0, 0, 0.001]))
        if depth and chance.random() < 0.5:
            return block_on(waits(depth - 1))
        return next(numbers)

    async def worker() -> int:
        done = 0
        for _ in range(20):
            try:
                async with asyncio.timeout(chance.choice([None, None, 0.002])):
                    block_on(waits(2))
                done += 1
            except TimeoutError:
                pass
        return done

    async def blocks() -> None:
        with pipe() as (reader, writer):
            for _ in range(20):
                asyncio.get_running_loop().call_later(0.001, os.write, writer, b"x")
                os.read(reader, 1)
                await asyncio.sleep(0)

    async def main() -> int:
        blockers = [asyncio.create_task(blocks()) for _ in range(2)]
        workers = [asyncio.create_task(worker()) for _ in range(6)]
        total = 0
        for task in workers:
            total += await task
            assert task.cancelling() == 0
            assert is_plain(task)
        await asyncio.gather(*blockers)
        carrying = running_loop()._carrying
        assert not carrying.awaiting
        return total

    assert hybridexec.run(main(), max_lwps=8) > 0
