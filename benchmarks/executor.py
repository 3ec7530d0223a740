"""The executor: what it promises against a pool of threads, and what its models cost."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import multiprocessing
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

from hybridexec import HybridExecutor

from .costs import NAP, TASKS, calls_by
from .measuring import in_turns, median_of, ratio
from .results import Benchmark, Row

MODELS = {"m:n": "mn", "1:1": "11", "n:1": "n1"}

PAGE = os.sysconf("SC_PAGE_SIZE")


# ---------------------------------------------------------------- 64 callers


def pooled(seconds: float) -> tuple[float, float]:
    """``loop.run_in_executor`` on a pool of threads."""
    with concurrent.futures.ThreadPoolExecutor(TASKS) as pool:
        return asyncio.run(_driven(pool, seconds))


def outside(seconds: float) -> tuple[float, float]:
    """The same on the executor."""
    with HybridExecutor() as executor:
        return asyncio.run(_driven(executor, seconds))


def inside(seconds: float) -> tuple[float, float]:
    """The callers are user threads of the executor."""
    with HybridExecutor() as executor:
        return executor.submit(_driven, executor, seconds).result()


async def _driven(executor: concurrent.futures.Executor, seconds: float) -> tuple[float, float]:
    loop = asyncio.get_running_loop()
    return await calls_by(lambda: loop.run_in_executor(executor, time.sleep, NAP), seconds)


def submit(quick: bool) -> Iterator[Row]:
    """64 callers of time.sleep(0.02) through submit, against a ThreadPoolExecutor(64) driven by asyncio."""
    rounds, seconds = (1, 0.3) if quick else (7, 2.0)
    peers = {"pool": partial(pooled, seconds), "outside": partial(outside, seconds), "inside": partial(inside, seconds)}
    found = in_turns(rounds, peers)
    how = median_of(rounds)
    rate, busy = ({name: [figure[i] for figure in figures] for name, figures in found.items()} for i in (0, 1))
    note = f"pool: {median(rate['pool']):,.0f}/s, {median(busy['pool']):.0f} µs"
    for name, where in {"outside": "callers on asyncio's loop", "inside": "callers in the executor"}.items():
        yield Row(f"submit.{name}-rate", f"{where}: calls", median(rate[name]), "/s", how, note)
        yield Row(f"submit.{name}-by-pool", "... by the pool's", ratio(rate[name], rate["pool"]), "", how)
        yield Row(f"submit.{name}-processor", "... processor per call", median(busy[name]), "µs", how, note)
        yield Row(f"submit.{name}-processor-by-pool", "... by the pool's", ratio(busy[name], busy["pool"]), "", how)


# ---------------------------------------------------------------- many


async def once() -> int:
    """Await once."""
    await asyncio.sleep(0)
    return 1


def complete(count: int, **options: Any) -> tuple[float, int]:
    """So many user threads that await once: seconds, and how many did not come to their end."""
    with HybridExecutor(**options) as executor:
        began = time.monotonic()
        futures = [executor.submit(once) for _ in range(count)]
        done = sum(future.result() for future in futures)
        return time.monotonic() - began, count - done


def waiting_memory(model: str, count: int) -> float:
    """Bytes of real memory per user thread that waits.  Measured in a process of its own."""
    options: dict[str, Any] = {"model": model, **({"loops": count + 1} if model == "1:1" else {})}

    async def waits() -> None:
        asyncio.get_running_loop().call_soon(arrived.release)
        await asyncio.get_running_loop().create_future()

    arrived = threading.Semaphore(0)
    with HybridExecutor(**options) as executor:
        first = executor.submit(waits)
        arrived.acquire()
        gc.collect()
        before = resident()
        futures = [executor.submit(waits) for _ in range(count)]
        for _ in futures:
            arrived.acquire()
        grown = resident() - before
        for future in (first, *futures):
            future.cancel()
    return grown / count


def resident() -> int:
    """How much real memory the process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE


def elsewhere(model: str, count: int) -> float:
    """What ``waiting_memory`` finds in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(waiting_memory, model, count).result()


def many(quick: bool) -> Iterator[Row]:
    """100,000 user threads that each await once, in one executor; the memory of one that waits."""
    count = 5_000 if quick else 100_000
    took, lost = complete(count)
    yield Row("many.lost", f"{count:,} user threads that await once: not done", lost, "", "one run")
    yield Row("many.took", "... all of them", took, "s", "one run")
    yield Row("many.each", "... each", took / count * 1e6, "µs", "one run")
    yield Row("many.memory", "memory of one that waits", elsewhere("m:n", count // 2) / 1024, "KiB", "one run")


def asleep(quick: bool) -> Iterator[Row]:
    """1,000 user threads blocked at once in time.sleep(1), with max_lwps=1024."""
    count, nap = (100, 0.1) if quick else (1_000, 1.0)
    rounds = 1 if quick else 3
    took = []
    for _ in range(rounds):
        with HybridExecutor(max_lwps=1024) as executor:
            began = time.monotonic()
            concurrent.futures.wait([executor.submit(time.sleep, nap) for _ in range(count)])
            took.append(time.monotonic() - began)
    yield Row("asleep.took", f"{count:,} x time.sleep({nap:g}) at once", median(took), "s", median_of(rounds))


def compressing(count: int, data: bytes, **options: Any) -> float:
    """Seconds for so many coroutines that compress."""

    async def compresses() -> int:
        return len(zlib.compress(data))

    with HybridExecutor(**options) as executor:
        began = time.monotonic()
        futures = [executor.submit(compresses) for _ in range(count)]
        assert all(future.result() for future in futures)
        return time.monotonic() - began


def compress(quick: bool) -> Iterator[Row]:
    """Coroutines that call zlib.compress, which lets the GIL go, against one loop without handoff."""
    rounds, count = (1, 8) if quick else (5, 40)
    data = os.urandom(1 << 20)
    peers: dict[str, Callable[[], float]] = {
        "n:1": lambda: compressing(count, data, model="n:1"),
        "m:n": lambda: compressing(count, data),
        "2 loops": lambda: compressing(count, data, loops=2),
        "1:1": lambda: compressing(count, data, model="1:1"),
    }
    found = in_turns(rounds, peers)
    how = median_of(rounds)
    note = ", ".join(f"{name}: {median(times):.2f} s" for name, times in found.items())
    yield Row(
        "compress.times",
        "zlib.compress: times as fast as on one loop",
        ratio(found["n:1"], found["m:n"]),
        "",
        how,
        note,
    )
    yield Row("compress.times-2-loops", "... with two loops", ratio(found["n:1"], found["2 loops"]), "", how)


# ---------------------------------------------------------------- the models


def creating(model: str, count: int) -> float:
    """Microseconds to create a user thread and see its end, one after the other on an executor that runs."""
    with HybridExecutor(model=model) as executor:  # type: ignore[arg-type]
        executor.submit(once).result()
        began = time.monotonic()
        for _ in range(count // 50):
            concurrent.futures.wait([executor.submit(once) for _ in range(50)])
        return (time.monotonic() - began) / count * 1e6


def switching(model: str, count: int) -> float:
    """Microseconds for a switch between two user threads: on one LWP by an await, else by a lock each."""
    if model == "1:1":
        return _ping_pong(count)

    async def yields() -> None:
        for _ in range(count // 2):
            await asyncio.sleep(0)

    with HybridExecutor(model=model) as executor:  # type: ignore[arg-type]
        executor.submit(once).result()
        began = time.monotonic()
        concurrent.futures.wait([executor.submit(yields) for _ in range(2)])
        return (time.monotonic() - began) / count * 1e6


def _ping_pong(count: int, **options: Any) -> float:
    turns = [threading.Semaphore(1), threading.Semaphore(0)]

    def plays(me: int) -> None:
        for _ in range(count // 2):
            turns[me].acquire()
            turns[1 - me].release()

    with HybridExecutor(**options or {"model": "1:1"}) as executor:
        began = time.monotonic()
        concurrent.futures.wait([executor.submit(plays, me) for me in range(2)])
        return (time.monotonic() - began) / count * 1e6


def blocked(model: str, count: int, nap: float) -> float:
    """Seconds until so many user threads that block are done."""

    async def blocks() -> None:
        time.sleep(nap)

    with HybridExecutor(model=model) as executor:  # type: ignore[arg-type]
        executor.submit(once).result()
        began = time.monotonic()
        concurrent.futures.wait([executor.submit(blocks) for _ in range(count)])
        return time.monotonic() - began


def per_model(name: str, what: str, unit: str, measure: Callable[[str], float], rounds: int) -> Iterator[Row]:
    """One figure for each model, in turns."""
    found = in_turns(rounds, {model: partial(measure, model) for model in MODELS})
    for model, short in MODELS.items():
        yield Row(f"{name}.{short}", f"{model}: {what}", median(found[model]), unit, median_of(rounds))


def create(quick: bool) -> Iterator[Row]:
    """Creating a user thread that awaits once, under each model: in "1:1" that is an LWP and a loop."""
    rounds, count = (1, 200) if quick else (5, 2_000)
    yield from per_model("create", "create a user thread, see its end", "µs", partial(creating, count=count), rounds)


def switch(quick: bool) -> Iterator[Row]:
    """Switching between two user threads, under each model: in "1:1" between two LWPs."""
    rounds, count = (1, 2_000) if quick else (5, 40_000)
    yield from per_model("switch", "switch to another user thread", "µs", partial(switching, count=count), rounds)
    found = [_ping_pong(count // 4, model="m:n") for _ in range(rounds)]
    yield Row("switch.mn-blocking", "m:n: the same by calls that block", median(found), "µs", median_of(rounds))


def memory(quick: bool) -> Iterator[Row]:
    """Real memory per user thread that waits, under each model: in "1:1" that is one LWP and a loop each."""
    for model, short in MODELS.items():
        count = (50 if quick else 500) if model == "1:1" else (2_000 if quick else 50_000)
        kib = elsewhere(model, count) / 1024
        yield Row(f"memory.{short}", f"{model}: one of {count:,} that wait", kib, "KiB", "one run")


def block(quick: bool) -> Iterator[Row]:
    """20 user threads that block for 50 ms each, under each model: in "n:1" one after the other."""
    rounds, count = (1, 5) if quick else (5, 20)
    yield from per_model("block", f"{count} x time.sleep(0.05)", "s", partial(blocked, count=count, nap=0.05), rounds)


BENCHMARKS: dict[str, Benchmark] = {
    "submit": submit,
    "many": many,
    "asleep": asleep,
    "compress": compress,
    "create": create,
    "switch": switch,
    "memory": memory,
    "block": block,
}
