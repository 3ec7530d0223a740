"""Nothing else of the loop runs while a handler does.

A handler makes others ready, lets them have the processor, and looks whether any has run: on asyncio none ever does.
"""

from __future__ import annotations

import _thread
import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

from helpers import LIBC, pipe, running_loop

import hybridexec
from hybridexec import HybridLoop, Upcall

from .shared import at_home, has_the_loop, home_of, interrupt, locked, rounds


def yields() -> None:
    """Whoever could run would: the interpreter is free several times, and the pipe tells pollers so."""
    for _ in range(20):
        time.sleep(0)


class Handler:
    """Sets an event, as a worker's does that shall stop, for many waiters."""

    def __init__(self, loop: asyncio.AbstractEventLoop, waiters: int) -> None:
        self.event = asyncio.Event()
        self.woken = 0
        self.inside = False
        self.calls = self.beside = 0
        self.called = threading.Event()
        self.home = home_of(loop)
        self.tasks = [asyncio.create_task(self.waits()) for _ in range(waiters)]
        signal.signal(signal.SIGUSR1, self)

    async def waits(self) -> None:
        await self.event.wait()
        self.looks()
        self.woken += 1

    def looks(self) -> None:
        """A step: it runs, though the handler may not have returned."""
        self.beside += self.inside

    def __call__(self, number: int, frame: FrameType | None) -> None:
        assert at_home()
        carrying = running_loop()._carrying
        self.inside = True
        assert carrying.holder is self.home
        assert carrying.holder_ident == _thread.get_ident()
        with hybridexec.pinned():  # what yields is no switch point
            asyncio.get_running_loop().call_soon(self.looks)
            yields()
            self.event.set()
            yields()
        assert carrying.holder is self.home
        self.inside = False
        self.calls += 1
        self.called.set()

    async def over(self) -> None:
        """Wait for all waiters; the handler was called once, and none of them ran beside it."""
        await asyncio.gather(*self.tasks)
        assert self.calls == 1
        assert self.woken == len(self.tasks), self.woken
        assert not self.beside, self.beside


async def ticks(handler: Handler) -> None:
    """Keep the loop busy until the handler was called."""
    while not handler.called.is_set():
        handler.looks()
        await asyncio.sleep(0)


async def blocked(handler: Handler, lock: threading.Lock, reader: int) -> None:
    lock.acquire()


async def in_a_region(handler: Handler, lock: threading.Lock, reader: int) -> None:
    with hybridexec.blocking():
        lock.acquire()


async def computes_in_a_region(handler: Handler, lock: threading.Lock, reader: int) -> None:
    with hybridexec.blocking():
        while not handler.called.is_set():
            pass


async def discovered(handler: Handler, lock: threading.Lock, reader: int) -> None:
    LIBC.read(reader, b" ", 1)


async def marked(handler: Handler, lock: threading.Lock, reader: int) -> None:
    os.read(reader, 1)


async def idle(handler: Handler, lock: threading.Lock, reader: int) -> None:
    await handler.event.wait()


async def busy(handler: Handler, lock: threading.Lock, reader: int) -> None:
    await ticks(handler)


HOMES: dict[str, Callable[[Handler, threading.Lock, int], Coroutine[Any, Any, None]]] = {
    "blocked": blocked,
    "in a region": in_a_region,
    "computes in a region": computes_in_a_region,
    "discovered": discovered,
    "marked": marked,
    "idle": idle,
    "busy": busy,
}
"""What the task at home does while the signal comes."""


def nothing_runs_beside(home: str, waiters: int) -> None:
    """Also if the others have something to do: what they wait for comes after the handler."""
    for others_tick in (False, True):
        _nothing_runs_beside(home, waiters, others_tick)


@rounds(3)
def _nothing_runs_beside(home: str, waiters: int, others_tick: bool) -> None:
    lock = locked()

    async def sends(handler: Handler) -> None:
        interrupt(signal.SIGUSR1)
        if others_tick:
            await ticks(handler)
        await handler.event.wait()
        lock.release()
        os.write(writer, b"x")

    async def main() -> None:
        handler = Handler(asyncio.get_running_loop(), waiters)
        await asyncio.sleep(0)
        task = asyncio.create_task(sends(handler))
        await HOMES[home](handler, lock, reader)
        assert has_the_loop() or home in ("idle", "busy")
        await task
        await handler.over()

    with pipe() as (reader, writer):
        hybridexec.run(main())


class Tells(hybridexec.Instrument):
    """Prints the blocks."""

    def blocked(self, upcall: Upcall) -> None:
        print("blocked", upcall.callable)

    def unblocked(self, upcall: Upcall) -> None:
        print("unblocked", upcall.callable)


def interrupted_call() -> None:
    """It continues after the handler as if nothing had happened.  Prints what is told of it."""

    async def sends(handler: Handler, lock: threading.Lock) -> None:
        interrupt(signal.SIGUSR1)
        await handler.event.wait()
        lock.release()

    async def main() -> None:
        lock = threading.Lock()
        lock.acquire()
        handler = Handler(asyncio.get_running_loop(), 1)
        await asyncio.sleep(0)
        task = asyncio.create_task(sends(handler, lock))
        lock.acquire()
        await task
        await handler.over()

    hybridexec.run(main(), instruments=[Tells()])


@rounds(10)
def computing_step_lends_the_loop() -> None:
    """The home is blocked, and another step waits for the handler without a call.  It resumes before all others."""
    order: list[str] = []

    async def computes(handler: Handler, lock: threading.Lock) -> None:
        assert not at_home()
        asyncio.get_running_loop().call_soon(order.append, "ready before")
        interrupt(signal.SIGUSR1)
        while not handler.calls:
            pass
        order.append("computes")
        lock.release()

    async def main() -> None:
        lock = threading.Lock()
        lock.acquire()
        handler = Handler(asyncio.get_running_loop(), 5)
        await asyncio.sleep(0)
        task = asyncio.create_task(computes(handler, lock))
        lock.acquire()
        await task
        await handler.over()
        assert order == ["computes", "ready before"], order

    hybridexec.run(main())


@rounds(3)
def pinned_step_waits() -> None:
    """It waits for the handler, and lends nothing; the handler does not wait forever."""
    called = threading.Event()
    signal.signal(signal.SIGUSR1, lambda number, frame: called.set())

    async def waits(lock: threading.Lock) -> None:
        with hybridexec.pinned():
            interrupt(signal.SIGUSR1)
            called.wait()
        lock.release()

    async def main() -> None:
        lock = threading.Lock()
        lock.acquire()
        task = asyncio.create_task(waits(lock))
        lock.acquire()
        await task

    hybridexec.run(main())


def all_lwps_are_blocked() -> None:
    """The handler has the loop, which is free; and it can end what blocks them."""
    lock = locked()

    def handler(number: int, frame: FrameType | None) -> None:
        assert running_loop()._carrying.holder is home_of(asyncio.get_running_loop())
        lock.release()

    def strikes(loop: HybridLoop) -> None:
        while not loop._carrying.exhausted:
            time.sleep(0.001)
        interrupt(signal.SIGUSR1)

    async def blocks() -> None:
        lock.acquire()
        lock.release()

    async def main() -> None:
        threading.Thread(target=strikes, args=(running_loop(),)).start()
        await asyncio.gather(blocks(), blocks())

    signal.signal(signal.SIGUSR1, handler)
    logging.disable()
    hybridexec.run(main(), max_lwps=2)


@rounds(10)
def blocks_in_a_blocked_step(raises: bool) -> None:
    """Others run meanwhile, and the handler returns before its step resumes: no code runs without the loop."""
    first, second = locked(), locked()
    order: list[str] = []

    def handler(number: int, frame: FrameType | None) -> None:
        second.acquire()
        order.append("handler")
        loop = running_loop()
        assert loop._carrying.holder is home_of(loop)
        if raises:
            raise LookupError

    async def releases() -> None:
        interrupt(signal.SIGUSR1)
        home = home_of(asyncio.get_running_loop())
        while home.watch.call.outer is None:  # the handler has not blocked inside of the step's call
            await asyncio.sleep(0)
        second.release()
        while "handler" not in order:
            await asyncio.sleep(0)
        order.append("others")
        first.release()

    async def main() -> None:
        task = asyncio.create_task(releases())
        try:
            first.acquire()
            order.append("step")
        except LookupError:
            order.append("raised")
        await task

    signal.signal(signal.SIGUSR1, handler)
    hybridexec.run(main())
    assert order == (["handler", "raised", "others"] if raises else ["handler", "others", "step"]), order
