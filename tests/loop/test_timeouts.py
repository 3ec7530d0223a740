"""Timeouts and cancellations of tasks that are blocked: the timer fires on a spare, the step hears of it at an await.

That a timer has fired while its task was blocked is proved by causality: the blocking call ends only when something
that comes after the timer has been done.  No test looks at a clock.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from helpers import holds, running_loop
from steps import BLOCKS, PLACES, SOON, Block, cancelling, go

import hybridexec


def after_next_timer(seconds: float, callback: Callable[[], object]) -> None:
    """Call something in the turn behind the one in which a timer of so many seconds, made before, has fired."""
    loop = asyncio.get_running_loop()
    loop.call_later(seconds, loop.call_soon, callback)


def when_cancelling(task: asyncio.Task[Any], callback: Callable[[], object]) -> None:
    """Call something as soon as the cancellation of a task was asked for."""
    if task.cancelling():
        callback()
    else:
        asyncio.get_running_loop().call_later(0.0005, when_cancelling, task, callback)


# ---------------------------------------------------------------- asyncio.timeout


@BLOCKS
@PLACES
def test_a_timeout_fires_while_its_task_is_blocked(place: str, block: Block, pair: tuple[int, int]) -> None:
    reader, writer = pair
    order: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON) as timeout:

                def check() -> None:
                    order.append(f"expiring {timeout.expired()}")
                    os.write(writer, b"x")

                after_next_timer(SOON, check)
                block(reader)
                order.append(f"goes on {cancelling()} {holds(loop)}")
                await asyncio.sleep(60)
                order.append("never")
        order.append(f"over {cancelling()}")
        await asyncio.sleep(0)

    hybridexec.run(go(place, main()))
    assert order == ["expiring True", "goes on 1 True", "over 0"]


@PLACES
def test_what_blocks_after_its_timeout_goes_on_to_the_next_await(place: str, pair: tuple[int, int]) -> None:
    """It blocks again and again; nothing interrupts it but the first await."""
    reader, writer = pair
    order: list[int] = []

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON):
                after_next_timer(SOON, lambda: os.write(writer, b"x"))
                os.read(reader, 1)
                for n in range(5):
                    time.sleep(0.001)
                    with hybridexec.blocking():
                        time.sleep(0.001)
                    order.append(n)
                await asyncio.sleep(0)
                order.append(99)

    hybridexec.run(go(place, main()))
    assert order == [0, 1, 2, 3, 4]


def test_a_timeout_that_does_not_fire_leaves_no_trace(pair: tuple[int, int]) -> None:
    reader, writer = pair

    async def main() -> int:
        async with asyncio.timeout(60) as timeout:
            asyncio.get_running_loop().call_soon(os.write, writer, b"x")
            os.read(reader, 1)
            await asyncio.sleep(0)
        assert not timeout.expired()
        return cancelling()

    assert hybridexec.run(main()) == 0


def test_a_timeout_that_is_over_before_the_next_await_is_not_told(pair: tuple[int, int]) -> None:
    """As on asyncio a body that ends by itself has ended in time, however late.

    Before 3.13 ``uncancel()`` does not take the cancellation back: it comes at the next await.
    """
    reader, writer = pair

    async def main() -> str:
        async with asyncio.timeout(SOON):
            after_next_timer(SOON, lambda: os.write(writer, b"x"))
            os.read(reader, 1)
        assert cancelling() == 0
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            return "cancelled"
        return "goes on"

    assert hybridexec.run(main()) == ("goes on" if sys.version_info >= (3, 13) else "cancelled")


def test_timeouts_around_each_other(pair: tuple[int, int]) -> None:
    """The outer one fires while the task is blocked: the inner one has nothing to say."""
    reader, writer = pair
    order: list[str] = []

    async def main() -> None:
        try:
            async with asyncio.timeout(SOON):
                try:
                    async with asyncio.timeout(60):
                        after_next_timer(SOON, lambda: os.write(writer, b"x"))
                        os.read(reader, 1)
                        await asyncio.sleep(60)
                except asyncio.CancelledError:
                    order.append("inner")
                    raise
        except TimeoutError:
            order.append("outer")
        assert cancelling() == 0

    hybridexec.run(main())
    assert order == ["inner", "outer"]


def test_a_timeout_is_rescheduled_by_another_task_while_its_own_is_blocked(pair: tuple[int, int]) -> None:
    reader, writer = pair

    async def main() -> str:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(60) as timeout:

            def reschedule() -> None:
                timeout.reschedule(loop.time() + 60)
                os.write(writer, b"x")

            loop.call_soon(reschedule)
            os.read(reader, 1)
            await asyncio.sleep(0)
            timeout.reschedule(None)
            await asyncio.sleep(0)
        return "in time"

    assert hybridexec.run(main()) == "in time"


def test_the_timeouts_of_many_blocked_tasks_fire_in_their_order(pair: tuple[int, int]) -> None:
    """All are blocked at once; those that come after the last timer release them."""
    reader, writer = pair
    fired: list[int] = []

    async def one(n: int, base: float) -> int:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(base + SOON * (n + 1)):
                loop.call_at(base + SOON * (n + 1), fired.append, n)
                os.read(reader, 1)
                await asyncio.sleep(60)
        except TimeoutError:
            return n
        return -1

    async def main() -> list[int]:
        base = asyncio.get_running_loop().time()
        tasks = [asyncio.create_task(one(n, base)) for n in range(8)]
        while len(fired) < len(tasks):
            await asyncio.sleep(SOON)
        assert running_loop().stats().lwps_blocked == len(tasks)
        os.write(writer, b"x" * len(tasks))
        return await asyncio.gather(*tasks)

    assert hybridexec.run(main()) == list(range(8))
    assert fired == list(range(8))


# ---------------------------------------------------------------- wait_for, wait


@BLOCKS
def test_wait_for_a_task_that_is_blocked_waits_until_it_has_heard(block: Block, pair: tuple[int, int]) -> None:
    reader, writer = pair
    order: list[str] = []

    async def blocks() -> None:
        try:
            block(reader)
            order.append("goes on")
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            order.append("cancelled")
            raise

    async def main() -> None:
        def release() -> None:
            order.append("releases")
            os.write(writer, b"x")

        task = asyncio.create_task(blocks())
        when_cancelling(task, release)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task, SOON)
        order.append("over")
        assert task.cancelled()

    hybridexec.run(main())
    assert order == ["releases", "goes on", "cancelled", "over"]


def test_a_task_that_is_cancelled_while_it_is_blocked_in_its_last_step_counts_as_cancelled(
    pair: tuple[int, int],
) -> None:
    """As on asyncio one that is cancelled in its last step, which there only itself can do."""
    reader, writer = pair
    order: list[str] = []

    async def blocks() -> str:
        os.read(reader, 1)
        order.append("done")
        return "done"

    async def cancels_itself() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "done"

    async def main() -> None:
        task = asyncio.create_task(blocks())
        when_cancelling(task, lambda: os.write(writer, b"x"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task, SOON)
        assert task.cancelled()
        assert order == ["done"]
        task = asyncio.create_task(cancels_itself())
        await asyncio.wait([task])
        assert task.cancelled()

    hybridexec.run(main())


def test_wait_with_a_timeout_leaves_the_blocked_task_alone(pair: tuple[int, int]) -> None:
    reader, writer = pair

    async def blocks() -> str:
        os.read(reader, 1)
        await asyncio.sleep(0)
        return "done"

    async def main() -> None:
        task = asyncio.create_task(blocks())
        done, waiting = await asyncio.wait([task], timeout=SOON)
        assert (done, waiting) == (set(), {task})
        os.write(writer, b"x")
        assert await task == "done"
        assert task.cancelling() == 0

    hybridexec.run(main())


def test_timers_fire_for_a_loop_that_is_carried_by_one_lwp_after_the_other(pair: tuple[int, int]) -> None:
    """Each step blocks until a timer has fired that was set while the loop was elsewhere."""
    reader, writer = pair
    fired: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def fire(n: int) -> None:
            fired.append(n)
            os.write(writer, b"x")

        for n in range(50):
            loop.call_later(0.0005 * (n % 3), fire, n)
            os.read(reader, 1)
            await asyncio.sleep(0)
            assert fired == list(range(n + 1))

    hybridexec.run(main())
