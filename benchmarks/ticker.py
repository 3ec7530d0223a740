"""Tasks that block, beside a task that ticks every 5 ms: how long all takes, and how late the ticks come."""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
import time
import types
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from statistics import median

import hybridexec

from .measuring import median_of, percentile
from .results import Benchmark, Row

TICK = 0.005
RUNS = 5
LIBC = ctypes.CDLL(None)

type Body = Callable[[], Awaitable[object]]
type Scene = Callable[[float], Awaitable[float]]


def unseen[F: Callable[..., object]](function: F) -> F:
    """The same function at a place that the detector has not met, so that each run finds it anew."""
    assert isinstance(function, types.FunctionType)
    code = function.__code__.replace()
    return types.FunctionType(code, function.__globals__, closure=function.__closure__)  # type: ignore[return-value]


async def beside_a_ticker(body: Body) -> tuple[float, list[float]]:
    """Run a body; how long it took, and by how many seconds each tick beside it was late."""
    late: list[float] = []
    over = asyncio.Event()

    async def ticks() -> None:
        while not over.is_set():
            due = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            late.append(time.monotonic() - due)

    ticker = asyncio.create_task(ticks())
    await asyncio.sleep(4 * TICK)
    began = time.monotonic()
    await body()
    took = time.monotonic() - began
    over.set()
    await ticker
    return took, late


async def sleepers(seconds: float, count: int) -> None:
    """Tasks that sleep by a declared call."""

    async def sleeps() -> None:
        time.sleep(seconds)

    await asyncio.gather(*(sleeps() for _ in range(count)))


async def undeclared(seconds: float, count: int) -> None:
    """Tasks that sleep by a call that nobody has declared."""

    @unseen
    def call() -> None:
        LIBC.usleep(int(seconds * 1e6))

    async def sleeps() -> None:
        call()

    await asyncio.gather(*(sleeps() for _ in range(count)))


async def computers(seconds: float, count: int) -> None:
    """Tasks that compute in Python, and await nothing."""

    async def computes() -> None:
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass

    await asyncio.gather(*(computes() for _ in range(count)))


async def lock(hold: float, *, by_with: bool) -> float:
    """A lock held across an await, and wanted by another task; how long after its release that one goes on."""
    wanted = threading.Lock()
    released = 0.0

    async def holds() -> None:
        nonlocal released
        with wanted:
            await asyncio.sleep(hold)
            released = time.monotonic()

    @unseen
    async def wants() -> float:
        if by_with:
            with wanted:
                return time.monotonic()
        wanted.acquire()
        got = time.monotonic()
        wanted.release()
        return got

    _, got = await asyncio.gather(holds(), wants())
    return got - released


async def pipe(wait: float) -> float:
    """``os.read`` on a pipe that another task writes to; how long after the write it goes on."""
    reader, writer = os.pipe()
    try:

        async def writes() -> float:
            await asyncio.sleep(wait)
            wrote = time.monotonic()
            os.write(writer, b"x")
            return wrote

        @unseen
        async def reads() -> float:
            os.read(reader, 1)
            return time.monotonic()

        got, wrote = await asyncio.gather(reads(), writes())
        return got - wrote
    finally:
        os.close(reader)
        os.close(writer)


def blocks(name: str, what: str, body: Body, quick: bool, preempt: float | None = None) -> Iterator[Row]:
    """Two figures of tasks that block or compute: how long all took, and how late the ticks were."""
    count = 1 if quick else RUNS
    how = median_of(count)
    found = [hybridexec.run(beside_a_ticker(body), preempt=preempt) for _ in range(count)]
    took, late = asyncio.run(beside_a_ticker(body))
    yield Row(f"{name}.took", what, median(t for t, _ in found), "s", how, f"default loop: {took:.2f} s")
    p99 = median(percentile(lateness, 0.99) for _, lateness in found) * 1e3
    yield Row(f"{name}.late", "... ticks late, p99", p99, "ms", how, f"default loop: {max(late) * 1e3:,.0f} ms")


def waits(name: str, what: str, scene: Scene, quick: bool) -> Iterator[Row]:
    """Two figures of a task that waits for another one: the worst tick, and how soon it goes on."""
    count = 1 if quick else RUNS
    how = median_of(count)
    delays: list[float] = []
    stops: list[float] = []

    async def body() -> None:
        delays.append(await scene(0.01 if quick else 0.1))

    for _ in range(count):
        _, lateness = hybridexec.run(beside_a_ticker(body))
        stops.append(max(lateness))
    note = "default loop: stands still for ever"
    yield Row(f"{name}.still", f"{what}: loop stands still", median(stops) * 1e3, "ms", how, note)
    yield Row(f"{name}.goes-on", "... goes on after the release", median(delays) * 1e3, "ms", how)


def sleep(quick: bool) -> Iterator[Row]:
    """20 tasks that do time.sleep(0.3)."""
    yield from blocks("sleep", "20 x time.sleep(0.3)", partial(sleepers, 0.03 if quick else 0.3, 20), quick)


def by_ctypes(quick: bool) -> Iterator[Row]:
    """5 tasks that call usleep(300000) through ctypes."""
    body = partial(undeclared, 0.03 if quick else 0.3, 5)
    yield from blocks("ctypes", "5 x usleep(300000) by ctypes", body, quick)


def lock_acquire(quick: bool) -> Iterator[Row]:
    """A threading.Lock held across an await, and wanted by lock.acquire()."""
    yield from waits("lock-acquire", "lock across an await, by acquire()", partial(lock, by_with=False), quick)


def lock_with(quick: bool) -> Iterator[Row]:
    """A threading.Lock held across an await, and wanted by with."""
    yield from waits("lock-with", "lock across an await, by with", partial(lock, by_with=True), quick)


def pipes(quick: bool) -> Iterator[Row]:
    """os.read on a pipe that another task writes to."""
    yield from waits("pipe", "os.read of what another task writes", pipe, quick)


def preempt(quick: bool) -> Iterator[Row]:
    """3 tasks that compute for 0.3 s in Python, with preempt=0.02."""
    body = partial(computers, 0.05 if quick else 0.3, 3)
    yield from blocks("preempt", "3 x 0.3 s of Python, preempt=0.02", body, quick, preempt=0.02)


BENCHMARKS: dict[str, Benchmark] = {
    "sleep": sleep,
    "ctypes": by_ctypes,
    "lock-acquire": lock_acquire,
    "lock-with": lock_with,
    "pipe": pipes,
    "preempt": preempt,
}
