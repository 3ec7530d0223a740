"""Cancellations of tasks that are blocked: they hear of it at their next await."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from helpers import running_loop
from steps import BLOCKS, PLACES, SOON, Block, cancelling, go

import hybridexec

pytestmark = pytest.mark.differs_by_version


@BLOCKS
@PLACES
def test_a_blocked_task_is_cancelled(place: str, block: Block, pair: tuple[int, int]) -> None:
    reader, writer = pair
    order: list[str] = []

    async def blocks() -> None:
        try:
            block(reader)
            order.append(f"goes on {cancelling()}")
            await asyncio.sleep(60)
        except asyncio.CancelledError as exc:
            order.append(f"cancelled {exc}")
            raise
        finally:
            order.append("finally")

    async def main() -> None:
        task = asyncio.create_task(blocks())
        while running_loop().stats().lwps_blocked < (1 if place == "home" else 2):
            await asyncio.sleep(0.001)
        assert task.cancel("enough")
        assert task.cancelling() == 1
        await asyncio.sleep(0)
        assert not task.done()
        order.append("releases")
        os.write(writer, b"x")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    hybridexec.run(go(place, main()))
    assert order == ["releases", "goes on 1", "cancelled enough", "finally"]


def test_a_cancellation_that_is_taken_back_while_the_task_is_blocked(pair: tuple[int, int]) -> None:
    """``uncancel()`` takes the request back; before 3.13 the CancelledError comes all the same."""
    reader, writer = pair

    async def blocks() -> str:
        os.read(reader, 1)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            return f"cancelled {cancelling()}"
        return f"goes on {cancelling()}"

    async def main() -> str:
        task = asyncio.create_task(blocks())
        await asyncio.sleep(0.001)
        assert task.cancel()
        assert task.uncancel() == 0
        os.write(writer, b"x")
        return await task

    assert hybridexec.run(main()) == ("goes on 0" if sys.version_info >= (3, 13) else "cancelled 0")


def test_a_task_that_was_cancelled_twice_while_it_was_blocked(pair: tuple[int, int]) -> None:
    reader, writer = pair
    order: list[str] = []

    async def blocks() -> None:
        os.read(reader, 1)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            order.append(f"cancelled {cancelling()}")
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            task.uncancel()
        await asyncio.sleep(0)
        order.append("goes on")

    async def main() -> None:
        task = asyncio.create_task(blocks())
        await asyncio.sleep(0.001)
        assert task.cancel()
        assert task.cancel()
        os.write(writer, b"x")
        await task

    hybridexec.run(main())
    assert order == ["cancelled 2", "goes on"]


def test_a_task_that_is_cancelled_when_its_call_is_over_but_it_has_not_gone_on(pair: tuple[int, int]) -> None:
    """It waits for its turn on the loop: the step that has the loop cancels it just then."""
    reader, writer = pair
    order: list[str] = []

    async def blocks() -> None:
        os.read(reader, 1)
        order.append(f"goes on {cancelling()}")
        await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.create_task(blocks())
        await asyncio.sleep(0.001)
        carrying = running_loop()._carrying
        os.write(writer, b"x")
        while not carrying.returning:
            pass
        order.append("cancels")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    hybridexec.run(main())
    assert order == ["cancels", "goes on 1"]


def test_a_blocked_child_of_a_group_is_cancelled_with_it(pair: tuple[int, int]) -> None:
    reader, writer = pair
    order: list[str] = []

    async def blocks() -> None:
        os.read(reader, 1)
        order.append(f"goes on {cancelling()}")
        try:
            await asyncio.sleep(60)
        finally:
            order.append("child over")

    async def fails() -> None:
        # The group cancels the others in the turn after this one.
        loop = asyncio.get_running_loop()
        loop.call_later(SOON, os.write, writer, b"x")
        raise LookupError

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as info:
            async with asyncio.TaskGroup() as group:
                group.create_task(blocks())
                group.create_task(fails())
        assert [type(exc) for exc in info.value.exceptions] == [LookupError]
        order.append("group over")

    hybridexec.run(main())
    assert order == ["goes on 1", "child over", "group over"]


def test_what_awaits_a_blocked_task_is_cancelled_at_once_with_a_shield(pair: tuple[int, int]) -> None:
    """Its own await is over at once; the blocked task goes on undisturbed."""
    reader, writer = pair

    async def blocks() -> str:
        os.read(reader, 1)
        await asyncio.sleep(0)
        return "done"

    async def main() -> str:
        task = asyncio.create_task(blocks())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), SOON)
        assert not task.done()
        os.write(writer, b"x")
        return await task

    assert hybridexec.run(main()) == "done"


def test_a_cancelled_generator_that_is_blocked(pair: tuple[int, int]) -> None:
    reader, writer = pair
    order: list[str] = []

    async def generates() -> AsyncIterator[int]:
        try:
            os.read(reader, 1)
            order.append("goes on")
            await asyncio.sleep(60)
            yield 1
        finally:
            order.append("closed")

    async def consumes() -> None:
        async for _ in generates():
            order.append("never")

    async def main() -> None:
        task = asyncio.create_task(consumes())
        await asyncio.sleep(0.001)
        task.cancel()
        os.write(writer, b"x")
        with pytest.raises(asyncio.CancelledError):
            await task

    hybridexec.run(main())
    assert order == ["goes on", "closed"]


@pytest.mark.engine("selector", reason="uvloop starts its processes itself")
def test_a_process_is_ended_whose_starter_is_cancelled_while_it_blocks(
    pair: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the starter awaits is done when its call is over, so that no await of its own raises."""
    reader, writer = pair
    transports: list[Any] = []
    get_pid = asyncio.unix_events._UnixSubprocessTransport.get_pid  # type: ignore[attr-defined]

    def blocks(transport: Any) -> int:
        if not transports:
            transports.append(transport)
            os.read(reader, 1)
        return int(get_pid(transport))

    monkeypatch.setattr("asyncio.unix_events._UnixSubprocessTransport.get_pid", blocks)

    async def main() -> None:
        connected = asyncio.Event()

        class Protocol(asyncio.SubprocessProtocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                connected.set()

        start = running_loop().subprocess_exec(Protocol, "sleep", "60", stdin=None, stdout=None, stderr=None)
        task = asyncio.create_task(start)
        await connected.wait()
        task.cancel()
        os.write(writer, b"x")
        with pytest.raises(asyncio.CancelledError):
            await task

    hybridexec.run(main())
    assert transports[0].get_returncode() == -signal.SIGKILL
