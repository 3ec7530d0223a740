"""Rule 6: affinity.

That the loop has moved is proved by causality: a step blocks on what only another task of the same loop can release.
"""

from __future__ import annotations

import _thread
import asyncio
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import greenlet
import pytest
from helpers import (
    COPIES_STACKS,
    pipe,
    running_loop,
)

import hybridexec

pytestmark = [pytest.mark.differs_by_engine, pytest.mark.differs_by_version]


def test_rule6_bound_tasks_stay_on_their_lwp_while_others_move() -> None:
    """While its LWP is blocked a bound task waits, as on asyncio; everybody else goes on."""
    with pipe() as (reader, writer):
        idents: list[int] = []
        while_blocked: list[str] = []
        blocked = False

        async def bound_task(ready: asyncio.Event) -> None:
            with hybridexec.bound():
                ready.set()
                for _ in range(50):
                    idents.append(_thread.get_ident())
                    if blocked:
                        while_blocked.append("bound")
                    await asyncio.sleep(0)

        async def blocks(ready: asyncio.Event) -> None:
            nonlocal blocked
            await ready.wait()
            blocked = True
            os.read(reader, 1)
            blocked = False

        async def unbound(ready: asyncio.Event) -> None:
            await ready.wait()
            while not blocked:
                await asyncio.sleep(0)
            for _ in range(100):
                while_blocked.append("unbound")
                await asyncio.sleep(0)
            os.write(writer, b"x")
            # ``blocked`` is reset when the step goes on.
            blocked_over.set()

        async def main() -> None:
            ready = asyncio.Event()
            await asyncio.gather(bound_task(ready), blocks(ready), unbound(ready))

        blocked_over = threading.Event()
        hybridexec.run(main())
        assert len(idents) == 50
        assert set(idents) == {_thread.get_ident()}
        assert while_blocked.count("unbound") == 100
        assert "bound" not in while_blocked


def test_rule6_a_task_can_be_bound_to_a_spare() -> None:
    with pipe() as (reader, writer):
        idents: list[int] = []

        async def blocks() -> None:
            os.read(reader, 1)

        async def bound_task() -> None:
            with hybridexec.bound():
                idents.append(_thread.get_ident())
                os.write(writer, b"x")
                for _ in range(20):
                    await asyncio.sleep(0.001)
                    time.sleep(0.001)
                    idents.append(_thread.get_ident())

        async def main() -> None:
            await asyncio.gather(blocks(), bound_task())

        hybridexec.run(main())
        assert len(idents) == 21
        assert len(set(idents)) == 1
        assert idents[0] != _thread.get_ident()


def test_rule6_callbacks_that_are_methods_of_what_has_no_hash_run_beside_a_bound_task() -> None:
    """``task.add_done_callback(background.discard)``, as asyncio's documentation advises."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        order: list[str] = []
        background: set[asyncio.Task[None]] = set()

        async def nothing() -> None:
            pass

        with hybridexec.bound():
            task = asyncio.create_task(nothing())
            background.add(task)
            task.add_done_callback(background.discard)
            loop.call_soon(order.append, "called")
            while background or not order:
                await asyncio.sleep(0)

    hybridexec.run(main())


def test_rule6_two_tasks_bound_to_one_lwp_keep_their_order() -> None:
    order: list[int] = []

    async def bound_task(number: int) -> None:
        with hybridexec.bound():
            for _ in range(10):
                order.append(number)
                await asyncio.sleep(0)

    async def blocks() -> None:
        for _ in range(5):
            time.sleep(0.001)
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(bound_task(0), bound_task(1), blocks())

    hybridexec.run(main())
    assert order == [0, 1] * 10


async def greenlet_spawn(function: Callable[[Callable[[Any], Any]], Any]) -> Any:
    """Run a function in a greenlet; it may await by calling what it gets.  As SQLAlchemy's asyncio extension does."""
    parent = greenlet.getcurrent()
    child = greenlet.greenlet(function)
    result = child.switch(lambda awaitable: parent.switch(awaitable))
    while not child.dead:
        result = child.switch(await result)
    return result


@COPIES_STACKS
@pytest.mark.needs_stack
def test_rule6_a_live_greenlet_binds() -> None:
    def inside(await_: Callable[[Any], Any]) -> int:
        idents = {_thread.get_ident()}
        for _ in range(10):
            await_(asyncio.sleep(0.001))
            time.sleep(0.001)
            idents.add(_thread.get_ident())
        return len(idents)

    async def blocks() -> None:
        for _ in range(10):
            time.sleep(0.002)
            await asyncio.sleep(0)

    async def main() -> tuple[list[int], int]:
        blockers = [asyncio.create_task(blocks()) for _ in range(5)]
        counts = await asyncio.gather(*(asyncio.create_task(greenlet_spawn(inside)) for _ in range(5)))
        await asyncio.gather(*blockers)
        return counts, running_loop().stats().handoffs

    counts, handoffs = hybridexec.run(main())
    assert counts == [1] * 5
    assert handoffs > 0


@COPIES_STACKS
@pytest.mark.needs_stack
def test_rule6_a_dead_greenlet_lets_go() -> None:
    """Afterwards the task moves again: it gets on while the thread that it was bound to is blocked."""
    with pipe() as (reader, writer):

        async def task(free: asyncio.Event) -> int:
            def inside(await_: Callable[[Any], Any]) -> None:
                await_(asyncio.sleep(0.001))

            await greenlet_spawn(inside)
            await asyncio.sleep(0)
            free.set()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            os.write(writer, b"x")  # only from another LWP than the blocked one
            return _thread.get_ident()

        async def blocks(free: asyncio.Event) -> int:
            await free.wait()
            os.read(reader, 1)
            return _thread.get_ident()

        async def main() -> tuple[int, int]:
            free = asyncio.Event()
            return await asyncio.gather(task(free), blocks(free))

        moved, blocked = hybridexec.run(main())
        assert moved != blocked
