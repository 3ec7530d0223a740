"""Handlers that raise, wherever the loop is."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import threading
import time
from types import FrameType

from helpers import LIBC, pipe

import hybridexec

from .shared import at_home, chance, has_the_loop, interrupt, locked, rounds, run_until_ctrl_c


def default_handler() -> None:
    """It raises out of run_forever; and the loop can be run again."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rng = chance()

    async def moves() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                time.sleep(0.001)
                await asyncio.sleep(0.0005)

    async def awaits() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    for _ in range(40):
        loop = hybridexec.new_event_loop()
        tasks = [loop.create_task(moves()) for _ in range(3)]
        sent = threading.Timer(rng.random() * 0.02, interrupt)
        try:
            sent.start()
            loop.run_forever()
        except KeyboardInterrupt:
            pass
        else:
            raise SystemExit("no KeyboardInterrupt")
        assert not loop.is_running()
        for task in tasks:
            task.cancel()
        loop.run_until_complete(awaits())
        loop.run_until_complete(asyncio.wait(tasks))
        loop.close()


def ctrl_c_at_any_time() -> None:
    """Tasks block all the time; Ctrl-C comes at random."""
    rng = chance()

    async def moves() -> None:
        while True:
            time.sleep(0.001)
            await asyncio.sleep(0.0005)

    async def main(timer: threading.Timer) -> None:
        timer.start()
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(moves())

    for _ in range(60):
        run_until_ctrl_c(main(threading.Timer(rng.random() * 0.02, interrupt)))


class Alarm(Exception):
    """What a handler raises."""


def breaks_the_call() -> None:
    """The home is blocked in it."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise Alarm

    async def raises() -> None:
        assert not at_home()
        interrupt(signal.SIGUSR1)

    async def main(lock: threading.Lock) -> int | None:
        task = asyncio.create_task(raises())
        try:
            lock.acquire()
        except Alarm:
            assert has_the_loop()
            await task
            return 42
        return None

    signal.signal(signal.SIGUSR1, handler)
    for _ in range(30):
        assert hybridexec.run(main(locked())) == 42


def after_a_deaf_call(known: bool) -> None:
    """The call looks for no signals; what the handler raises is raised when the home holds the loop again."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if known:
        hybridexec.register_blocking(LIBC.read)
    _after_a_deaf_call()


@rounds(20)
def _after_a_deaf_call() -> None:
    buffer = ctypes.create_string_buffer(1)
    order: list[str] = []

    async def holds() -> None:
        assert not at_home()
        await asyncio.sleep(0)
        with hybridexec.pinned():
            interrupt()
            os.write(writer, b"x")
            until = time.monotonic() + 0.01
            while time.monotonic() < until:
                pass
            order.append("holds")

    async def main() -> None:
        task = asyncio.create_task(holds())
        try:
            LIBC.read(reader, buffer, 1)
        except KeyboardInterrupt:
            order.append("raised")
            assert has_the_loop()
            raise
        await task

    with pipe() as (reader, writer), asyncio.Runner(loop_factory=hybridexec.new_event_loop) as runner:
        loop = runner.get_loop()
        task = loop.create_task(main())
        try:
            loop.run_until_complete(task)
        except KeyboardInterrupt:
            assert order == ["holds", "raised"], order
        else:
            raise SystemExit("no KeyboardInterrupt")
