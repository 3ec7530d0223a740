"""What it costs: a blocking call without a server around it, and a step that does not block."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from statistics import median
from typing import Any

import hybridexec

from .loops import factory, installed
from .measuring import in_turns, median_of, ratio
from .results import Benchmark, Row

TASKS = 64
NAP = 0.02
YIELDERS = 100

type Run = Callable[[Coroutine[Any, Any, float]], float]


async def calls_by(call: Callable[[], Awaitable[object]], seconds: float) -> tuple[float, float]:
    """Tasks that call, over and over: calls per second, and microseconds of the processor per call."""
    count = 0
    until = time.monotonic() + seconds

    async def caller() -> None:
        nonlocal count
        while time.monotonic() < until:
            await call()
            count += 1

    began, busy = time.monotonic(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(TASKS)))
    return count / (time.monotonic() - began), (time.process_time() - busy) / count * 1e6


def blocking(seconds: float) -> tuple[float, float]:
    """Just block, on our loop."""

    async def call() -> None:
        time.sleep(NAP)
        await asyncio.sleep(0)

    return hybridexec.run(calls_by(call, seconds))


def offloaded(seconds: float) -> tuple[float, float]:
    """``asyncio.to_thread`` on the default loop, with as many threads as tasks."""

    async def main() -> tuple[float, float]:
        with concurrent.futures.ThreadPoolExecutor(TASKS) as pool:
            asyncio.get_running_loop().set_default_executor(pool)
            return await calls_by(partial(asyncio.to_thread, time.sleep, NAP), seconds)

    return asyncio.run(main())


def yielded(run: Run, count: int) -> float:
    """Nanoseconds per step of tasks that yield to each other."""

    async def yields() -> None:
        for _ in range(count // YIELDERS):
            await asyncio.sleep(0)

    async def main() -> float:
        began = time.monotonic()
        await asyncio.gather(*(yields() for _ in range(YIELDERS)))
        return (time.monotonic() - began) / count * 1e9

    return run(main())


def chained(run: Run, count: int) -> float:
    """Nanoseconds per turn of the loop: a callback that schedules itself, so that each turn has one."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        left = count

        def callback() -> None:
            nonlocal left
            left -= 1
            if left:
                loop.call_soon(callback)
            else:
                over.set_result(None)

        began = time.monotonic()
        loop.call_soon(callback)
        await over
        return (time.monotonic() - began) / count * 1e9

    return run(main())


def timed(run: Run, count: int) -> float:
    """Nanoseconds per timer that is set and cancelled."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        began = time.monotonic()
        for _ in range(count):
            loop.call_later(5, print).cancel()
        return (time.monotonic() - began) / count * 1e9

    return run(main())


def tasked(run: Run, count: int) -> float:
    """Nanoseconds per task that does nothing."""

    async def nothing() -> None:
        pass

    async def main() -> float:
        began = time.monotonic()
        for _ in range(count // YIELDERS):
            await asyncio.gather(*(nothing() for _ in range(YIELDERS)))
        return (time.monotonic() - began) / count * 1e9

    return run(main())


def calls(quick: bool) -> Iterator[Row]:
    """64 tasks that do time.sleep(0.02) over and over, against asyncio.to_thread with 64 threads."""
    rounds, seconds = (1, 0.3) if quick else (5, 2.0)
    found = in_turns(rounds, {"ours": partial(blocking, seconds), "theirs": partial(offloaded, seconds)})
    how = median_of(rounds)
    ours, theirs = ([median(figure[i] for figure in found[name]) for i in (0, 1)] for name in ("ours", "theirs"))
    yield Row("calls.rate", f"64 x time.sleep({NAP}): calls", ours[0], "/s", how, f"to_thread: {theirs[0]:,.0f}/s")
    yield Row("calls.processor", "... processor per call", ours[1], "µs", how, f"to_thread: {theirs[1]:.0f} µs")


def on(loop: str) -> Run:
    """How to run a coroutine on a loop of that name."""

    def run(coroutine: Coroutine[Any, Any, float]) -> float:
        with asyncio.Runner(loop_factory=factory(loop)) as runner:
            return runner.run(coroutine)

    return run


STEPS = {
    "turn": ("a callback that schedules itself: a turn of the loop", chained),
    "timer": ("a timer that is set and cancelled", timed),
    "yield": ("100 tasks that yield: a step", yielded),
    "task": ("a task that does nothing", tasked),
}


def steps(quick: bool) -> Iterator[Row]:
    """Steps that do not block, timers and tasks, against all loops that are installed."""
    rounds, count = (1, 20_000) if quick else (9, 200_000)
    how = median_of(rounds)
    for name, (what, measure) in STEPS.items():
        found = in_turns(rounds, {loop: partial(measure, on(made), count) for loop, made in installed().items()})
        others = ", ".join(f"{loop} {median(times):,.0f} ns" for loop, times in found.items() if loop != "ours")
        yield Row(f"steps.{name}", what, median(found["ours"]), "ns", how, others)
        for loop in found:
            if loop != "ours":
                yield Row(f"steps.{name}-by-{loop}", f"... by {loop}", ratio(found["ours"], found[loop]), "", how)


BENCHMARKS: dict[str, Benchmark] = {"calls": calls, "steps": steps}
