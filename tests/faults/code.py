"""The program's own code: at the recursion limit, instruments that block, finalizers that resurrect."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import hybridexec

from .scene import LIBC, blocks, main, program, relays, right

_RLOCK = threading.RLock()


def _region() -> None:
    with hybridexec.blocking():
        time.sleep(0.002)


def _pinned() -> None:
    with hybridexec.pinned():
        time.sleep(0.002)


def _bound() -> None:
    with hybridexec.bound():
        time.sleep(0.002)


def _rlock() -> None:
    with _RLOCK:
        time.sleep(0.002)


def _query() -> None:
    database = sqlite3.connect(":memory:")
    try:
        database.execute("select 1")
    finally:
        database.close()


_CALLS: dict[str, Callable[[], object]] = {
    "sleep": lambda: time.sleep(0.002),
    "undeclared": lambda: LIBC.usleep(8000),
    "blocking": _region,
    "pinned": _pinned,
    "bound": _bound,
    "RLock": _rlock,
    "Event": lambda: threading.Event().wait(0.002),
    "sqlite3": _query,
    "signal": lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
}
"""The nine kinds of call."""


def _depth() -> int:
    depth, frame = 0, sys._getframe(1)
    while frame is not None:
        depth, frame = depth + 1, frame.f_back  # type: ignore[assignment]
    return depth


def _deep(frames: int, call: Callable[[], object]) -> object:
    return _deep(frames - 1, call) if frames > 0 else call()


@program
def recursion(first: str = "1", last: str = "31", times: str = "1") -> None:
    """Calls with so few frames left before the recursion limit, at home and on a spare."""
    limit = 300
    raised: set[int] = set()
    places: set[bool] = set()

    async def one(room: int, call: Callable[[], object]) -> None:
        lwp = hybridexec.current_lwp()
        assert lwp is not None
        places.add(lwp.is_home)
        try:
            _deep(limit - _depth() - room, call)
        except RecursionError:
            raised.add(room)
        await asyncio.sleep(0)

    async def away(room: int, call: Callable[[], object]) -> None:
        """Another step blocks until that one is over."""
        lock = threading.Lock()
        lock.acquire()

        async def waits() -> None:
            lock.acquire()

        async def does() -> None:
            try:
                await one(room, call)
            finally:
                lock.release()

        await asyncio.gather(waits(), does())

    async def scene(room: int, call: Callable[[], object]) -> None:
        right(await blocks(2, 1, 0.002), 2)
        await asyncio.gather(one(room, call), one(room, call), blocks(3, 1, 0.002))
        await away(room, call)

    former = sys.getrecursionlimit()
    for name, call in _CALLS.items():
        for room in list(range(int(first), int(last) + 1)) * int(times):
            print(name, room, flush=True)
            sys.setrecursionlimit(limit)
            try:
                hybridexec.run(scene(room, call))
            finally:
                sys.setrecursionlimit(former)
        hybridexec.run(relays(1))
    assert raised
    assert places == {True, False}  # some at home, some on a spare


class _Blocks(hybridexec.Instrument):
    """Blocks in each upcall, declared and undeclared."""

    def __init__(self) -> None:
        self.calls = 0

    def _block(self, upcall: hybridexec.Upcall) -> None:
        self.calls += 1
        time.sleep(0.001)
        LIBC.usleep(7000)

    blocked = unblocked = preempted = lwp_started = lwp_retired = exhausted = _block


class _Raises(hybridexec.Instrument):
    """Raises in each upcall."""

    def _raise(self, upcall: hybridexec.Upcall) -> None:
        raise ValueError("an instrument")

    blocked = unblocked = preempted = lwp_started = lwp_retired = exhausted = _raise


@program
def instrument() -> None:
    """An instrument blocks; another raises."""
    for most in (3, 64):
        blocking = _Blocks()

        async def scene() -> None:
            right(await blocks(6, 2), 6)
            await relays()

        hybridexec.run(scene(), instruments=[blocking, _Raises()], max_lwps=most, preempt=0.02)
        assert blocking.calls


_graves: list[Any] = []


class _Lazarus:
    """Lives on, twice, and blocks meanwhile."""

    def __init__(self) -> None:
        self.lives = 0

    def __del__(self) -> None:
        self.lives += 1
        time.sleep(0.001)
        LIBC.usleep(6000)
        if self.lives < 3:
            _graves.append(self)


@program
def finalizer() -> None:
    """Finalizers block and resurrect their object: where a step drops it, with a task, and in a cycle."""

    async def drops(rounds: int) -> None:
        for _ in range(rounds):
            it = _Lazarus()
            del it
            await asyncio.sleep(0)
            _graves.clear()
            cycle: list[Any] = [_Lazarus()]
            cycle.append(cycle)
            await asyncio.sleep(0)

    async def keeps(it: _Lazarus) -> None:
        await asyncio.sleep(0)

    async def scene() -> None:
        for _ in range(3):
            await asyncio.gather(*(drops(4) for _ in range(3)), *(keeps(_Lazarus()) for _ in range(4)), blocks(4, 1))
            _graves.clear()
        await relays()

    hybridexec.run(scene())


if __name__ == "__main__":
    main()
