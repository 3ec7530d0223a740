"""Preemption: where a busy step may be interrupted, and where not."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import pytest
from helpers import running_loop

import hybridexec
from hybridexec import UpcallKind

SLICE = 0.005


class Spin:
    """Code that keeps the loop until another task has had a turn, or, if that must not be, for many slices.

    Attributes:
        order: what happened: "spins", "other" if it was not interrupted.
    """

    def __init__(self) -> None:
        self.order: list[str] = []

    def until_another_goes_on(self) -> None:
        """Ends only if it is preempted."""
        while "other" not in self.order:
            pass
        self.order.append("spins")

    def for_long(self) -> None:
        """Ends by itself."""
        until = time.monotonic() + 8 * SLICE
        while time.monotonic() < until:
            pass
        self.order.append("spins")

    async def other(self) -> None:
        self.order.append("other")


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run on a loop that preempts; how often it did."""

    async def counted() -> int:
        await main()
        return running_loop().stats().upcalls[UpcallKind.PREEMPTED]

    return hybridexec.run(counted(), preempt=SLICE)


# ---------------------------------------------------------------- interrupted


async def plainly(spins: Coroutine[Any, Any, None]) -> None:
    await spins


async def under_a_timeout(spins: Coroutine[Any, Any, None]) -> None:
    await asyncio.wait_for(spins, 50)


async def in_a_group(spins: Coroutine[Any, Any, None]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(spins)


async def in_a_group_of_anyio(spins: Coroutine[Any, Any, None]) -> None:
    async def start() -> None:
        await spins

    async with anyio.create_task_group() as group:
        group.start_soon(start)


@pytest.mark.parametrize("how", [plainly, under_a_timeout, in_a_group, in_a_group_of_anyio])
def test_a_step_is_interrupted_though_asyncio_awaits_it(how: Callable[[Any], Awaitable[None]]) -> None:
    spin = Spin()

    async def spins() -> None:
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(spin.order.append, "other")
        spin.until_another_goes_on()

    async def main() -> None:
        await how(spins())

    assert run(main) >= 1
    assert spin.order == ["other", "spins"]


def test_a_generator_and_what_c_code_calls_are_interrupted_as_well() -> None:
    spin = Spin()

    def key(number: int) -> int:
        if number == 1:
            spin.until_another_goes_on()
        return number

    async def main() -> None:
        asyncio.get_running_loop().call_soon(spin.order.append, "other")
        assert sorted((number for number in (2, 1)), key=key) == [1, 2]

    assert run(main) >= 1
    assert spin.order == ["other", "spins"]


# ---------------------------------------------------------------- not interrupted


def test_what_asyncio_calls_in_the_middle_of_its_work_is_not_interrupted() -> None:
    """A protocol's method, from a transport; an exception handler, from the loop."""
    spin = Spin()

    class Protocol(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            asyncio.get_running_loop().call_soon(spin.order.append, "other")
            spin.for_long()
            received.set()

    received = asyncio.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with theirs:
            transport, _ = await loop.create_connection(Protocol, sock=ours)
            theirs.send(b"x")
            await received.wait()
            transport.close()
        assert spin.order == ["spins", "other"]

        handled = asyncio.Event()

        def handler(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            loop.call_soon(spin.order.append, "other")
            spin.for_long()
            handled.set()

        loop.set_exception_handler(handler)
        loop.call_exception_handler({"message": "for the handler"})
        await handled.wait()
        await asyncio.sleep(0)
        assert spin.order == ["spins", "other"] * 2

    run(main)


def test_what_anyio_calls_in_the_middle_of_its_work_is_not_interrupted() -> None:
    """Its task group calls the function that makes the coroutine, and has not noted the task yet."""
    spin = Spin()

    def makes() -> Coroutine[Any, Any, None]:
        asyncio.get_running_loop().call_soon(spin.order.append, "other")
        spin.for_long()
        return spin.other()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(makes)
            assert spin.order == ["spins"]

    run(main)
    assert spin.order == ["spins", "other", "other"]


def test_pinned_code_is_not_interrupted_and_what_follows_is() -> None:
    spin = Spin()

    async def main() -> None:
        asyncio.get_running_loop().call_soon(spin.order.append, "other")
        with hybridexec.pinned():
            spin.for_long()
        spin.until_another_goes_on()

    assert run(main) >= 1
    assert spin.order == ["spins", "other", "spins"]


@pytest.mark.parametrize("mode", ["observe", "raise"])
def test_only_a_loop_that_moves_preempts(mode: Any) -> None:
    spin = Spin()

    async def main() -> None:
        asyncio.get_running_loop().call_soon(spin.order.append, "other")
        spin.for_long()
        assert running_loop().stats().upcalls[UpcallKind.PREEMPTED] == 0

    hybridexec.run(main(), preempt=SLICE, mode=mode)
    assert spin.order == ["spins", "other"]
