"""Finalizers: what dies with a step that is over may block like a step.

A step's last reference is the loop's own.  What it has kept alive (arguments of a callback, the result of a task) is
finalized where the loop drops it, between two steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import math
import operator
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from helpers import LIBC, fresh, holds, pipe, running_loop

import hybridexec


class Dies:
    """Calls something when it is dropped."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call

    def __del__(self) -> None:
        self.call()


class Mourned:
    """Somebody has a weak reference to it."""


type Pair = tuple[Callable[[], object], Callable[[], object]]


def declared(stack: contextlib.ExitStack) -> Pair:
    """What blocks and what releases it: a lock."""
    lock = threading.Lock()
    lock.acquire()
    return lock.acquire, lock.release


def undeclared(stack: contextlib.ExitStack) -> Pair:
    """What blocks and what releases it: a system call that is in no catalogue."""
    reader, writer = stack.enter_context(pipe())
    buffer = bytes(1)
    return lambda: LIBC.read(reader, buffer, 1), functools.partial(os.write, writer, b"x")


def ignore(*arguments: object) -> None:
    """A step that keeps its arguments alive until it is over."""


async def keep(value: object) -> object:
    """A task that keeps its result alive until it is gone."""
    return value


def in_callback(loop: asyncio.AbstractEventLoop, mortal: object, behind: Callable[[], object]) -> None:
    """The argument of a callback."""
    loop.call_soon(ignore, mortal)
    loop.call_soon(behind)


def in_callback_that_raises(loop: asyncio.AbstractEventLoop, mortal: object, behind: Callable[[], object]) -> None:
    """The same where the callback has failed."""
    loop.set_exception_handler(lambda *_: None)
    fails: Callable[[Any], object] = operator.index
    loop.call_soon(fails, mortal)
    loop.call_soon(behind)


def in_timer(loop: asyncio.AbstractEventLoop, mortal: object, behind: Callable[[], object]) -> None:
    """The argument of a timer."""
    when = loop.time()
    loop.call_at(when, ignore, mortal)
    loop.call_at(when, behind)


def in_task(loop: asyncio.AbstractEventLoop, mortal: object, behind: Callable[[], object]) -> None:
    """The result of a task that nobody waits for."""
    loop.create_task(keep(mortal))
    loop.call_soon(behind)


def in_reader(loop: asyncio.AbstractEventLoop, mortal: object, behind: Callable[[], object]) -> None:
    """The argument of a reader's callback, which removes it."""
    reader, writer = os.pipe()

    def ready(mortal: object) -> None:
        loop.remove_reader(reader)
        os.close(reader)
        os.close(writer)
        behind()

    loop.add_reader(reader, ready, mortal)
    os.write(writer, b"x")


@pytest.mark.parametrize("make", [declared, undeclared], ids=lambda make: make.__name__)
@pytest.mark.parametrize("released", ["behind it", "in a later turn"])
@pytest.mark.parametrize("mortal", [Dies, weakref.ref], ids=["finalizer", "weak reference"])
@pytest.mark.parametrize(
    "put", [in_callback, in_callback_that_raises, in_timer, in_task, in_reader], ids=lambda put: put.__name__
)
def test_a_finalizer_blocks_where_the_loop_drops_a_step(put: Any, mortal: Any, released: str, make: Any) -> None:
    """What releases it is the step behind it, or one of a later turn: neither comes if the loop stays."""
    order: list[str] = []
    kept: list[object] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def dies() -> None:
            order.append("blocks")
            blocks()
            assert holds(loop)
            order.append("returns")
            done.set_result(None)

        def release() -> None:
            order.append("releases")
            releases()

        def behind() -> None:
            if released == "behind it" and put is not in_reader:
                release()
            else:
                loop.call_later(0.001, release)

        final = fresh(dies)
        if mortal is Dies:
            put(loop, Dies(final), behind)
        else:
            mourned = Mourned()
            kept.append(weakref.ref(mourned, lambda _: final()))
            put(loop, mourned, behind)
            del mourned
        await done

    with contextlib.ExitStack() as stack:
        blocks, releases = make(stack)
        hybridexec.run(main())
    assert order == ["blocks", "releases", "returns"]


def test_the_rest_of_the_batch_runs_once_and_in_order() -> None:
    """While the finalizer blocks, and when it is over."""
    ran: list[int] = []
    lock = threading.Lock()
    lock.acquire()

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def release() -> None:
            lock.release()
            ran.append(-1)

        for number in range(100):
            loop.call_soon(ran.append, number)
            if number == 20:
                loop.call_soon(ignore, Dies(lock.acquire))
            if number == 60:
                loop.call_soon(release)
        while len(ran) < 101:
            await asyncio.sleep(0)
        assert running_loop().stats().handoffs == 1

    hybridexec.run(main())
    assert ran == [*range(61), -1, *range(61, 100)]


def test_a_step_behind_a_finalizer_waits_for_its_context() -> None:
    """The finalizer blocks; a step in a context blocks; the finalizer is over: the next step in that context waits."""
    ran: list[str] = []
    told: list[Any] = []
    locks = [threading.Lock() for _ in range(2)]
    for lock in locks:
        lock.acquire()

    async def main() -> None:
        loop = running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context))
        context = contextvars.copy_context()
        done = loop.create_future()

        def block() -> None:
            locks[0].release()
            locks[1].acquire()
            ran.append("first")

        def wait() -> None:
            if loop._carrying.deferred:  # the second one has had its turn
                locks[1].release()
            else:
                loop.call_soon(wait)

        def second() -> None:
            ran.append("second")
            done.set_result(None)

        loop.call_soon(ignore, Dies(locks[0].acquire))
        loop.call_soon(block, context=context)
        loop.call_soon(second, context=context)
        loop.call_soon(wait)
        await done

    hybridexec.run(main())
    assert (ran, told) == (["first", "second"], [])


def test_nobody_gives_the_loop_away_behind_a_finalizer_that_is_without_it() -> None:
    """The finalizer leaves the loop and does not take it back; then it is time to look who has waited."""
    looked: list[bool] = []

    async def main() -> None:
        loop = running_loop()
        carrying = loop._carrying
        boundary = carrying.boundary

        def look(lwp: Any) -> bool:
            looked.append(carrying.holder is lwp)
            return boundary(lwp)

        def enter() -> None:
            hybridexec.blocking().__enter__()
            carrying.due = -math.inf

        carrying.boundary = look  # type: ignore[method-assign]
        loop.set_exception_handler(ignore)
        done = loop.create_future()
        loop.call_soon(ignore, Dies(enter))
        loop.call_soon(done.set_result, None)
        await done
        carrying.due = -math.inf
        await asyncio.sleep(0)

    hybridexec.run(main())
    assert looked
    assert all(looked)
