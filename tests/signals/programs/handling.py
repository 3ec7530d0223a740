"""Handlers of ``signal.signal`` run while the home is blocked, or queues; each handler may block itself."""

from __future__ import annotations

import _thread
import asyncio
import collections
import functools
import logging
import operator
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from helpers import LIBC, nothing, pipe

import hybridexec
from hybridexec import LwpState

from .shared import at_home, chance, has_the_loop, home_of, interrupt

LOG = logging.getLogger("test")
LOG.addHandler(logging.NullHandler())
LOG.setLevel(logging.INFO)

FREE = threading.RLock()


def logs() -> None:
    LOG.info("handled")


def locks() -> None:
    FREE.acquire()
    FREE.release()


def sleeps() -> None:
    time.sleep(0.001)


def sleeps_briefly() -> None:
    time.sleep(0.0002)


def writes() -> None:
    os.write(2, b"")


BODIES: dict[str, Callable[[], object]] = {
    "nothing": nothing,
    "logs": logs,
    "locks": locks,
    "sleeps": sleeps,
    "sleeps briefly": sleeps_briefly,
    "writes": writes,
}
"""What a handler does."""


class Counts:
    """A handler that does something, and counts its calls."""

    def __init__(self, body: Callable[[], object]) -> None:
        self.calls = 0
        self._body = body
        signal.signal(signal.SIGUSR1, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        assert at_home()
        self._body()
        self.calls += 1


def home_is_blocked(body: str) -> None:
    """Another step has to release the home's each time, though the handler may block itself."""
    handler = Counts(BODIES[body])

    async def releases(writer: int) -> None:
        assert not at_home()
        for _ in range(3):
            before = handler.calls
            interrupt(signal.SIGUSR1)
            while handler.calls == before:
                await asyncio.sleep(0)
        os.write(writer, b"x")

    async def main(reader: int, writer: int, calls: int) -> None:
        task = asyncio.create_task(releases(writer))
        os.read(reader, 1)
        assert has_the_loop()
        await task
        assert handler.calls == calls

    for round in range(20):
        with pipe() as (reader, writer):
            hybridexec.run(main(reader, writer, 3 * round + 3))


def just_before_the_call() -> None:
    """CPython looks for signals no more once the instruction has begun, and the system call begins with one pending."""
    handled: list[bool] = []
    signal.signal(signal.SIGTERM, lambda number, frame: handled.append(at_home()))

    async def releases(writer: int) -> None:
        while not handled:
            await asyncio.sleep(0)
        assert not at_home()
        os.write(writer, b"x")

    async def main() -> None:
        with pipe() as (reader, writer):
            task = asyncio.create_task(releases(writer))
            # Both in one instruction, and no Python between them.
            signals = functools.partial(getattr(LIBC, "raise"), signal.SIGTERM.value)
            collections.deque(map(operator.call, (signals, functools.partial(os.read, reader, 1))))
            await task

    for _ in range(3):
        handled.clear()
        hybridexec.run(main())
        assert handled == [True]
        assert signal.getsignal(signal.SIGURG) == signal.SIG_DFL


def signal_that_nudges() -> None:
    """A program keeps its handler of it."""
    urgent: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        urgent.append(number)

    async def main() -> None:
        assert signal.getsignal(signal.SIGURG) is handler
        interrupt(signal.SIGURG)
        while not urgent:
            await asyncio.sleep(0)

    signal.signal(signal.SIGURG, handler)
    hybridexec.run(main())
    assert urgent == [signal.SIGURG]
    assert signal.getsignal(signal.SIGURG) is handler


def home_waits_for_its_turn(body: str) -> None:
    """The call of the home's step has returned, and another step holds the loop."""
    entered = threading.Event()

    def enters() -> None:
        entered.set()
        BODIES[body]()

    handler = Counts(enters)

    async def holds(writer: int) -> None:
        assert not at_home()
        home = home_of(asyncio.get_running_loop())
        with hybridexec.pinned():
            os.write(writer, b"x")
            while home.state is not LwpState.RETURNING:
                pass
            entered.clear()
            interrupt(signal.SIGUSR1)
            while not entered.is_set():
                pass

    async def main(reader: int, writer: int) -> None:
        task = asyncio.create_task(holds(writer))
        os.read(reader, 1)
        assert has_the_loop()
        await task
        for _ in range(5):
            await asyncio.sleep(0.001)

    for round in range(20):
        with pipe() as (reader, writer):
            hybridexec.run(main(reader, writer))
            assert handler.calls == round + 1


def at_any_time(body: str) -> None:
    """Tasks block all the time, and signals come at random."""
    handler = Counts(BODIES[body])
    rng = chance()
    over = threading.Event()

    def sends() -> None:
        while not over.wait(rng.random() * 0.002):
            interrupt(signal.SIGUSR1)

    async def moves() -> None:
        for _ in range(150):
            time.sleep(0.001)
            await asyncio.sleep(0.0005)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(moves())

    thread = threading.Thread(target=sends)
    thread.start()
    hybridexec.run(main())
    over.set()
    thread.join()
    assert handler.calls > 10


def other_step_computes() -> None:
    """It waits for the handler without a call, and sends the signal to the thread that it runs on."""
    came: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))

    async def main() -> None:
        with pipe() as (reader, writer):

            async def home() -> None:
                assert at_home()
                os.read(reader, 1)

            async def computes() -> None:
                assert not at_home()
                signal.pthread_kill(_thread.get_ident(), signal.SIGUSR1)
                while not came:
                    pass
                os.write(writer, b"x")

            await asyncio.gather(home(), computes())

    hybridexec.run(main())
