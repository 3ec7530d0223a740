"""Nested: with ``Config(nested=True)`` a step runs another event loop, or its own, to its end.  (loop/nesting.py)"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from helpers import holds, pipe, running_loop

import hybridexec

pytestmark = [pytest.mark.differs_by_engine, pytest.mark.differs_by_version]

value: contextvars.ContextVar[str] = contextvars.ContextVar("value", default="none")


class Client:
    """The synchronous face of an asynchronous SDK, as many are written.

    Args:
        reader: of a pipe.
        run: how it runs a coroutine.
    """

    def __init__(self, reader: int, run: Callable[[Any], Any]) -> None:
        self._reader = reader
        self._run = run

    def fetch(self) -> Any:
        """Wait for something to read."""
        return self._run(self._fetch())

    async def _fetch(self) -> tuple[bytes, asyncio.AbstractEventLoop]:
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._reader, readable.set_result, None)
        await readable
        loop.remove_reader(self._reader)
        return os.read(self._reader, 1), loop


def with_runner(coroutine: Any) -> Any:
    """As ``asyncio.run``, by hand."""
    with asyncio.Runner() as runner:
        return runner.run(coroutine)


def with_loop(coroutine: Any) -> Any:
    """As before there was ``asyncio.run``."""
    loop = asyncio.SelectorEventLoop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


def with_asyncio(coroutine: Any) -> Any:
    """By the name that it is looked up by."""
    return asyncio.run(coroutine)


@pytest.mark.parametrize("run", [with_asyncio, with_runner, with_loop, hybridexec.run], ids=lambda run: run.__name__)
def test_an_sdk_s_synchronous_face_in_a_handler(run: Callable[[Any], Any]) -> None:
    """What it waits for is another handler's doing."""

    async def main() -> None:
        loop = running_loop()
        task = asyncio.current_task()
        with pipe() as (reader, writer):

            async def handler() -> tuple[bytes, asyncio.AbstractEventLoop]:
                return Client(reader, run).fetch()

            async def other() -> None:
                os.write(writer, b"x")

            (said, its), _ = await asyncio.gather(handler(), other())
        assert said == b"x"
        assert its is not loop
        assert its.is_closed()
        assert asyncio.get_running_loop() is loop
        assert holds(loop)
        assert asyncio.current_task() is task

    hybridexec.run(main(), nested=True)


def test_it_is_refused_by_default() -> None:
    async def main() -> None:
        coroutine = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
            asyncio.run(coroutine)
        coroutine.close()
        other = asyncio.SelectorEventLoop()
        coroutine = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="while another loop is running"):
            other.run_until_complete(coroutine)
        coroutine.close()
        other.close()

    hybridexec.run(main())


def test_other_loops_refuse_as_ever() -> None:
    """Also where a loop that allows nesting was made, and its thread runs another one."""
    hybridexec.new_event_loop(nested=True).close()

    async def main() -> None:
        coroutine = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
            asyncio.run(coroutine)
        coroutine.close()

    asyncio.run(main())
    hybridexec.run(main(), nested=False)


def test_the_running_loop_completes_a_future() -> None:
    async def main() -> None:
        loop = running_loop()
        event = asyncio.Event()

        async def waits() -> tuple[Any, str]:
            await event.wait()
            value.set("inside")
            return asyncio.current_task(), value.get()

        loop.call_soon(event.set)
        value.set("outside")
        task, seen = loop.run_until_complete(waits())
        assert task is not asyncio.current_task()
        assert (seen, value.get()) == ("inside", "outside")  # a task has a context of its own
        future: asyncio.Future[str] = loop.create_future()
        threading.Thread(target=loop.call_soon_threadsafe, args=(future.set_result, "set")).start()
        assert loop.run_until_complete(future) == "set"
        assert loop.stats().awaits == 2

    hybridexec.run(main(), nested=True)


def test_a_cancelled_step_cancels_what_the_running_loop_completes() -> None:
    log: list[str] = []

    async def inner() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("inner")
            raise

    async def victim() -> None:
        try:
            running_loop().run_until_complete(inner())
        finally:
            log.append("victim")

    async def main() -> None:
        task = asyncio.create_task(victim())
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    hybridexec.run(main(), nested=True)
    assert log == ["inner", "victim"]


@pytest.mark.parametrize("mode", ["handoff", "observe", "raise"])
def test_in_each_mode(mode: Any) -> None:
    """It is said to block: so mode "raise" allows it."""

    async def twice(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    async def main() -> tuple[int, int]:
        return running_loop().run_until_complete(twice(1)), asyncio.run(twice(2))

    assert hybridexec.run(main(), mode=mode, nested=True) == (2, 4)


def test_django_s_async_to_sync_in_a_handler() -> None:
    """Its coroutine runs on a loop in a thread of asgiref's; what it waits for is another handler's doing."""
    sync = pytest.importorskip("asgiref.sync")

    async def main() -> tuple[bytes, str]:
        value.set("of the handler")
        with pipe() as (reader, writer):

            async def view() -> tuple[bytes, str]:
                loop = asyncio.get_running_loop()
                readable: asyncio.Future[None] = loop.create_future()
                loop.add_reader(reader, readable.set_result, None)
                await readable
                loop.remove_reader(reader)
                return os.read(reader, 1), value.get()

            running_loop().call_soon(os.write, writer, b"x")
            return sync.async_to_sync(view)()

    assert hybridexec.run(main(), nested=True) == (b"x", "of the handler")
    with pytest.raises(RuntimeError, match="You cannot use AsyncToSync"):
        hybridexec.run(main())
