"""trio beside asyncio on one thread: every task is told whose it is, also while a step of trio's blocks."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import asyncio
import os
import signal
import threading
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
import sniffio
import trio
from helpers import fresh, pipe, running_loop
from steps import Block, declared, discovered, explicit

import hybridexec

pytestmark = pytest.mark.differs_by_version  # on the lowest one with the lowest trio, whose insides are others


def guest(main: Callable[[], Awaitable[Any]], **options: Any) -> asyncio.Future[Any]:
    """Start trio as a guest on the running loop."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    trio.lowlevel.start_guest_run(
        main,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        done_callback=lambda outcome: done.set_result(outcome),
        **options,
    )
    return done


def who() -> tuple[str, bool]:
    """Which library a task is told that it runs in, and whether that is a task of trio's."""
    try:
        trio.lowlevel.current_task()
    except RuntimeError:  # as newer trios' in_trio_task()
        return sniffio.current_async_library(), False
    return sniffio.current_async_library(), True


@pytest.mark.parametrize("block", [declared, discovered, explicit])
def test_while_a_guest_blocks_asyncio_s_tasks_are_asyncio_s(block: Block) -> None:
    block = fresh(block)
    seen: list[Any] = []

    async def main() -> None:
        with pipe() as (reader, writer):

            async def blocks() -> None:
                task = trio.lowlevel.current_task()
                block(reader)
                seen.append(who())
                assert trio.lowlevel.current_task() is task
                await trio.sleep(0)
                seen.append(who())

            async def releases() -> None:
                for _ in range(3):
                    await anyio.sleep(0)
                    seen.append(who())
                os.write(writer, b"x")

            done = guest(blocks, host_uses_signal_set_wakeup_fd=True)
            await releases()
            (await done).unwrap()
            seen.append(who())

    hybridexec.run(main())
    assert seen == [("asyncio", False)] * 3 + [("trio", True)] * 2 + [("asyncio", False)]


def test_a_guest_that_blocks_and_an_asyncio_task_that_blocks() -> None:
    """Each has its marks when it comes back, whoever came back before."""
    seen: list[Any] = []

    async def main() -> None:
        first, second = threading.Event(), threading.Event()

        async def blocks() -> None:
            first.wait()
            seen.append(who())

        async def blocks_too() -> None:
            second.wait()
            seen.append(who())
            first.set()

        async def releases() -> None:
            seen.append(who())
            second.set()

        done = guest(blocks, host_uses_signal_set_wakeup_fd=True)
        await asyncio.gather(blocks_too(), releases())
        (await done).unwrap()

    hybridexec.run(main())
    assert seen == [("asyncio", False)] * 2 + [("trio", True)]


@pytest.mark.filterwarnings("ignore:It looks like Trio")  # it finds the wake-up fd of the other run
def test_two_steps_that_run_trio_each() -> None:
    """The runner is a mark, too, if it is no guest's: on asyncio one run is over when the other one begins."""
    event = threading.Event()
    seen: list[Any] = []

    async def waits() -> None:
        event.wait()
        await trio.sleep(0)
        seen.append("first")

    async def sets() -> None:
        await trio.sleep(0)
        seen.append("second")
        event.set()

    async def runs(function: Callable[[], Awaitable[None]]) -> None:
        trio.run(function)
        assert who() == ("asyncio", False)
        with pytest.raises(RuntimeError):  # no trio runs here
            trio.lowlevel.current_trio_token()

    async def main() -> None:
        await asyncio.gather(runs(waits), runs(sets))

    hybridexec.run(main())
    assert seen == ["second", "first"]


# ---------------------------------------------------------------- the wake-up fd


@pytest.mark.parametrize("run", [asyncio.run, hybridexec.run])
def test_no_wake_up_fd_but_for_signal_handlers(run: Callable[..., Any]) -> None:
    async def main() -> list[bool]:
        loop = asyncio.get_running_loop()
        seen = [signal.set_wakeup_fd(-1) == -1]
        loop.add_signal_handler(signal.SIGUSR1, int)
        former = signal.set_wakeup_fd(-1)
        seen.append(former == -1)
        signal.set_wakeup_fd(former)
        loop.remove_signal_handler(signal.SIGUSR1)
        seen.append(signal.set_wakeup_fd(-1) == -1)
        return seen

    assert run(main()) == [True, False, True]


def test_a_program_s_wake_up_fd_stays_and_the_loop_s_comes_back() -> None:
    async def main() -> None:
        loop = running_loop()
        with pipe() as (_, writer):
            os.set_blocking(writer, False)
            assert signal.set_wakeup_fd(writer) == -1
            assert _signal.set_wakeup_fd(writer) == writer
            assert signal.set_wakeup_fd(-1) == writer
        ours = loop._csock.fileno()
        assert _signal.set_wakeup_fd(ours) == ours

    hybridexec.run(main())


def test_a_guest_that_handles_signals_itself_warns_as_little_as_on_asyncio() -> None:
    async def nothing() -> None:
        await trio.sleep(0)

    async def main() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            (await guest(nothing)).unwrap()

    hybridexec.run(main())
