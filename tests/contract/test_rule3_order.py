"""Rule 3: order.

That the loop has moved is proved by causality: a step blocks on what only another task of the same loop can release.
"""

from __future__ import annotations

import asyncio
import collections
import os
import threading
import time
from time import monotonic

import pytest
from helpers import (
    here,
    pipe,
)
from steps import spin_until

import hybridexec
from hybridexec.protocol.lwp import LWP, LwpState

pytestmark = [pytest.mark.differs_by_engine, pytest.mark.differs_by_version]


def test_rule3_the_ready_queue_stays_fifo() -> None:
    with pipe() as (reader, writer):
        order: list[int] = []

        def callback(number: int) -> None:
            if number in (10, 40, 41):
                os.read(reader, 1)
            elif number == 77:
                time.sleep(0.002)
            order.append(number)
            if number == 190:
                os.write(writer, b"xxx")  # on a busy machine this may last, too

        async def main() -> None:
            loop = asyncio.get_running_loop()
            for number in range(200):
                loop.call_soon(callback, number)
            while len(order) < 200:
                await asyncio.sleep(0)

        hybridexec.run(main())
        quick = [number for number in order if number not in (10, 40, 41, 77)]
        assert quick == [number for number in range(200) if number not in (10, 40, 41, 77)]
        assert sorted(order) == list(range(200))


def test_rule3_returning_steps_go_on_in_the_order_of_return() -> None:
    count = 6
    locks = [threading.Lock() for _ in range(count)]
    carriers: list[LWP] = []
    order: list[int] = []
    release_order = [3, 0, 5, 1, 4, 2]

    async def blocks(number: int) -> None:
        carriers.append(here())
        locks[number].acquire()
        order.append(number)

    async def releases() -> None:
        with hybridexec.pinned():
            for number in release_order:
                locks[number].release()
                spin_until(lambda number=number: carriers[number].state is LwpState.RETURNING)  # type: ignore[misc]

    async def main() -> None:
        tasks = [asyncio.create_task(blocks(number)) for number in range(count)]
        await asyncio.gather(*tasks, asyncio.create_task(releases()))

    for lock in locks:
        lock.acquire()
    hybridexec.run(main())
    assert order == release_order


def test_rule3_a_returning_step_gets_its_turn_though_the_loop_is_never_idle() -> None:
    with pipe() as (reader, writer):
        returned = False

        async def blocks() -> None:
            nonlocal returned
            os.read(reader, 1)
            returned = True

        async def busy() -> None:
            while not returned:
                await asyncio.sleep(0)

        async def releases() -> None:
            os.write(writer, b"x")

        async def main() -> None:
            await asyncio.gather(blocks(), *(busy() for _ in range(50)), releases())

        hybridexec.run(main())
        assert returned


def test_rule3_a_returning_step_does_not_wait_for_a_long_batch() -> None:
    """It gets the loop between two steps, before the rest of what was ready."""
    with pipe() as (reader, writer):
        returned = False
        ran_before = 0
        batch = 300

        async def blocks() -> None:
            nonlocal returned
            os.read(reader, 1)
            returned = True

        def busy() -> None:
            nonlocal ran_before
            if not returned:
                ran_before += 1
                until = monotonic() + 0.003
                while monotonic() < until:
                    pass

        async def main() -> None:
            loop = asyncio.get_running_loop()
            task = asyncio.create_task(blocks())
            loop.call_soon(os.write, writer, b"x")
            for _ in range(batch):
                loop.call_soon(busy)
            await task

        hybridexec.run(main())
        assert ran_before < batch


def test_rule3_preempted_steps_get_their_turn() -> None:
    turns: collections.Counter[int] = collections.Counter()
    count = 3

    async def computes(number: int) -> None:
        # Each goes on only until every one has had a turn, which none has without preemption.
        while True:
            turns[number] += 1
            if len(turns) == count:
                break

    async def main() -> None:
        await asyncio.gather(*(computes(number) for number in range(count)))

    hybridexec.run(main(), preempt=0.005)
    assert set(turns) == set(range(count))
