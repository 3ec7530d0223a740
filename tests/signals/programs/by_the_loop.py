"""Signals that the loop handles: ``loop.add_signal_handler``, its counterpart, and the wakeup descriptor."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from helpers import pipe

import hybridexec

from .shared import at_home, interrupt, rounds


@rounds(5)
def callback_is_a_step(where: str) -> None:
    """The callback is a step like any other."""

    async def body() -> None:
        assert at_home() or where == "on a spare"
        loop = asyncio.get_running_loop()
        for number in signal.SIGUSR1, signal.SIGTERM:
            for _ in range(5):
                came = asyncio.Event()
                loop.add_signal_handler(number, came.set)
                os.kill(os.getpid(), number)
                await came.wait()
                assert loop.remove_signal_handler(number)
                assert not loop.remove_signal_handler(number)
                assert signal.getsignal(number) is signal.SIG_DFL

    async def main() -> None:
        if where == "at home":
            return await body()
        over = False

        async def releases() -> None:
            nonlocal over
            await body()
            over = True

        task = asyncio.create_task(releases())
        await asyncio.sleep(0)
        # The home has to serve others between two blocks.
        while not over:
            time.sleep(0.003)
            await asyncio.sleep(0.0001)
        return await task

    hybridexec.run(main())


@rounds(20)
def home_is_blocked() -> None:
    """Only the loop's own handler of the signal releases the home."""

    async def blocks() -> None:
        assert at_home()
        os.read(reader, 1)

    def handler() -> None:
        assert not at_home()
        os.write(writer, b"x")

    async def main() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, handler)
        task = asyncio.create_task(blocks())
        await asyncio.sleep(0)
        assert not at_home()
        os.kill(os.getpid(), signal.SIGUSR1)
        await task

    with pipe() as (reader, writer):
        hybridexec.run(main())


def loop_does_not_run() -> None:
    """A signal that comes meanwhile is handled in the next run."""
    loop = hybridexec.new_event_loop()

    def add(came: asyncio.Future[None]) -> None:
        loop.add_signal_handler(signal.SIGUSR1, lambda: came.set_result(None))

    async def main(came: asyncio.Future[None]) -> None:
        add(came)

    for register in (True, False):  # registered while it rests, and while it runs
        came = loop.create_future()
        if register:
            add(came)
            loop.run_until_complete(asyncio.sleep(0))
        else:
            loop.run_until_complete(main(came))
        interrupt(signal.SIGUSR1)
        loop.run_until_complete(came)
        assert loop.remove_signal_handler(signal.SIGUSR1)
        assert signal.set_wakeup_fd(-1) == -1
    loop.close()


def last_handler_is_removed() -> None:
    """Signals still end the poll."""

    async def main() -> None:
        import _signal  # type: ignore[import-not-found]  # the functions that hybridexec does not replace

        loop = asyncio.get_running_loop()
        before = _signal.set_wakeup_fd(-1)
        _signal.set_wakeup_fd(before)
        loop.add_signal_handler(signal.SIGUSR1, int)
        loop.remove_signal_handler(signal.SIGUSR1)
        assert _signal.set_wakeup_fd(before) == before != -1

    hybridexec.run(main())
    assert signal.set_wakeup_fd(-1) == -1
