"""Waiting for user threads in tasks of asyncio, of our loops, and of trio; asyncio's own uses of an executor."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import anyio
import pytest
from executors import PATIENCE, every_model, executing, forever, gate

import hybridexec
from hybridexec import ExecutorFullError, HybridExecutor, UserThreadState

BACKENDS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio"},
    "ours": {"backend": "asyncio", "backend_options": {"loop_factory": hybridexec.new_event_loop}},
    "trio": {"backend": "trio"},
}

every_backend = pytest.mark.parametrize("backend", BACKENDS)


class Trouble(Exception):
    pass


def run(backend: str, main: Callable[[], Awaitable[Any]]) -> Any:
    return anyio.run(main, **BACKENDS[backend])


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


async def trouble() -> None:
    raise Trouble


@every_backend
@every_model
def test_run_and_await(backend: str, options: dict[str, Any]) -> None:
    async def main() -> None:
        assert await executor.run(double, 2) == 4
        assert await executor.run(len, "abc") == 3
        thread = executor.spawn(double, 3)
        assert await thread == 6
        assert await thread == 6
        with pytest.raises(Trouble):
            await executor.run(trouble)
        with pytest.raises(Trouble):
            await executor.spawn(trouble)

    with executing(**options) as executor:
        run(backend, main)


@every_backend
@every_model
def test_run_that_is_cancelled_cancels_and_waits(backend: str, options: dict[str, Any]) -> None:
    started, cleaned = threading.Event(), threading.Event()

    async def waits() -> None:
        started.set()
        try:
            await forever()
        finally:
            await asyncio.sleep(0.01)
            cleaned.set()

    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(executor.run, waits)
                await anyio.to_thread.run_sync(started.wait)
                scope.cancel()
        assert scope.cancelled_caught
        assert cleaned.is_set()
        assert not executor.threads()

    with executing(**options) as executor:
        run(backend, main)


@every_backend
def test_run_that_is_cancelled_raises_what_the_user_thread_then_raises(backend: str) -> None:
    started = threading.Event()

    async def fails() -> None:
        started.set()
        try:
            await forever()
        finally:
            raise Trouble

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as info:
            async with anyio.create_task_group() as group:
                group.start_soon(executor.run, fails)
                await anyio.to_thread.run_sync(started.wait)
                group.cancel_scope.cancel()
        assert info.group_contains(Trouble)

    with executing() as executor:
        run(backend, main)


@every_backend
def test_run_that_is_cancelled_waits_for_a_plain_callable(backend: str) -> None:
    with gate() as closed, executing() as executor:

        async def main() -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(executor.run, closed.enter)
                await anyio.to_thread.run_sync(closed.reached)
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await executor.run(closed.open)
            assert not executor.threads()

        run(backend, main)


@every_backend
def test_a_user_thread_that_is_cancelled_tells_who_waits(backend: str) -> None:
    error = concurrent.futures.CancelledError if backend == "trio" else asyncio.CancelledError

    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async def main() -> None:
        for waiting in (functools.partial(executor.run, cancels_itself), lambda: executor.spawn(cancels_itself)):
            with pytest.raises(error):
                await waiting()

    with executing() as executor:
        run(backend, main)


@every_backend
def test_whoever_waits_for_a_handle_may_leave(backend: str) -> None:
    with gate() as closed, executing() as executor:

        async def main() -> None:
            thread = executor.spawn(closed.enter_async, "result")
            await anyio.to_thread.run_sync(closed.reached)
            with anyio.move_on_after(0):
                await thread
            assert thread.state is not UserThreadState.DONE
            closed.open()
            assert await thread == "result"

        run(backend, main)


def test_whoever_waits_may_end_before_the_user_thread() -> None:
    """With its event loop: nobody is told then, and nothing is raised anywhere."""

    async def main() -> None:
        task = asyncio.ensure_future(thread)
        await asyncio.sleep(0)
        task.cancel()

    with gate() as closed, executing() as executor:
        thread = executor.spawn(closed.enter)
        asyncio.run(main())
        closed.open()
        thread.result(PATIENCE)


def test_user_threads_wait_for_each_other_on_one_loop() -> None:
    async def waits() -> int:
        return await executor.run(double, 1) + await executor.spawn(double, 2)

    def blocks() -> int:
        return executor.spawn(double, 1).result(PATIENCE) + executor.submit(double, 2).result(PATIENCE)

    with executing(1) as executor:
        assert executor.submit(waits).result(PATIENCE) == 6
        assert executor.submit(blocks).result(PATIENCE) == 6


# ---------------------------------------------------------------- where asyncio wants an executor


@contextlib.contextmanager
def runner(ours: bool) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=hybridexec.new_event_loop if ours else None) as made:
        yield made


@pytest.mark.parametrize("ours", [False, True], ids=["asyncio", "ours"])
@every_model
def test_it_is_the_default_executor(ours: bool, options: dict[str, Any]) -> None:
    executor = HybridExecutor(**options, name="mine")
    assert isinstance(executor, concurrent.futures.ThreadPoolExecutor)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(executor)
        name = (await asyncio.to_thread(threading.current_thread)).name
        assert name.startswith(("mine-", "hybridexec-lwp-"))
        assert await loop.run_in_executor(None, len, "abc") == 3
        coroutine: Any = double  # the stub does not know that it is driven
        assert await loop.run_in_executor(executor, coroutine, 3) == 6
        with pytest.raises(Trouble):
            await loop.run_in_executor(None, cast(Any, trouble))
        assert (await loop.getaddrinfo("127.0.0.1", 80))[0][-1] == ("127.0.0.1", 80)

    with runner(ours) as made:
        made.run(main())
    # As with any other, the loop that ends has shut it down.
    with pytest.raises(RuntimeError):
        executor.submit(len, "abc")


def test_to_thread_on_it_blocks_nobody() -> None:
    count = 20
    barrier = threading.Barrier(count)

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(HybridExecutor(1))
        found = await asyncio.gather(*(asyncio.to_thread(barrier.wait, PATIENCE) for _ in range(count)))
        assert sorted(found) == list(range(count))

    asyncio.run(main())


def test_to_thread_of_a_callable_in_c_is_seen() -> None:
    with gate() as closed:

        async def main() -> None:
            with executing(1) as executor:
                asyncio.get_running_loop().set_default_executor(executor)
                lock = threading.Lock()
                lock.acquire()
                waits = asyncio.create_task(asyncio.to_thread(lock.acquire))
                await asyncio.to_thread(len, "abc")
                while not any(info.state is UserThreadState.BLOCKED for info in executor.threads()):
                    await asyncio.sleep(0.001)
                await asyncio.to_thread(lock.release)
                assert await waits

        asyncio.run(main())
        closed.open()


def test_a_task_that_is_cancelled_cancels_the_coroutine_in_the_executor() -> None:
    with executing() as executor:

        async def main() -> None:
            started = threading.Event()
            future = asyncio.get_running_loop().run_in_executor(executor, forever, started)
            await asyncio.to_thread(started.wait)
            future.cancel()
            while executor.threads():
                await asyncio.sleep(0.001)

        asyncio.run(main())


# ---------------------------------------------------------------- back-pressure


def test_a_plain_thread_waits_for_a_place() -> None:
    with gate() as first, gate() as second, executing(max_pending=2) as executor:
        futures = [executor.submit(closed.enter) for closed in (first, second)]
        placed = threading.Event()

        def third() -> None:
            futures.append(executor.submit(len, "abc"))
            placed.set()

        thread = threading.Thread(target=third)
        thread.start()
        assert not placed.wait(0.05)
        second.open()
        assert placed.wait(PATIENCE)
        assert futures[-1].result(PATIENCE) == 3
        first.open()
        thread.join()


@every_backend
def test_a_task_gets_an_error_and_run_waits(backend: str) -> None:
    with gate() as closed, executing(max_pending=1) as executor:

        async def main() -> None:
            executor.submit(closed.enter)
            with pytest.raises(ExecutorFullError, match="max_pending=1"):
                executor.submit(len, "abc")
            with pytest.raises(ExecutorFullError):
                executor.spawn(len, "abc")
            found: list[int] = []

            async def runs(text: str) -> None:
                found.append(await executor.run(len, text))

            async with anyio.create_task_group() as group:
                for text in ("a", "ab", "abc"):
                    group.start_soon(runs, text)
                with anyio.move_on_after(0):
                    await executor.run(len, "never")  # leaves the queue
                await anyio.wait_all_tasks_blocked()
                assert not found
                closed.open()
            assert sorted(found) == [1, 2, 3]
            assert executor.stats().submitted == 4

        run(backend, main)


def test_a_place_is_given_back_whatever_becomes_of_it() -> None:
    with gate() as closed, executing(model="n:1", max_pending=3) as executor:
        executor.submit(closed.enter)
        closed.reached()
        for _ in range(5):
            assert executor.submit(len, "abc").cancel()
        executor.submit(trouble)
        closed.open()
        assert executor.submit(double, 1).result(PATIENCE) == 2
        for _ in range(5):
            assert isinstance(executor.submit(trouble).exception(PATIENCE), Trouble)
        for _ in range(5):
            started = threading.Event()
            future = executor.submit(forever, started)
            assert started.wait(PATIENCE)
            assert future.cancel()


def test_who_waits_for_a_place_is_told_of_a_shutdown() -> None:
    with gate() as closed, executing(max_pending=1) as executor:
        executor.submit(closed.enter)
        closed.reached()
        told: list[BaseException] = []
        waits = threading.Event()

        def asks() -> None:
            waits.set()
            try:
                executor.submit(len, "abc")
            except RuntimeError as exc:
                told.append(exc)

        thread = threading.Thread(target=asks)
        thread.start()
        assert waits.wait(PATIENCE)
        while not executor._crew.permits._queue:
            pass
        executor.shutdown(wait=False)
        thread.join(PATIENCE)
        assert "after shutdown" in str(told[0])
        closed.open()
