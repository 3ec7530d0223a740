"""What it costs to wait for a coroutine in synchronous code: ``block_on``, and what people use in its place."""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib.util
import multiprocessing
import queue
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import hybridexec

from .measuring import in_turns, median_of, percentile, ratio
from .results import Benchmark, Row

QUERIES = 4
BLOCKERS = 8
NAP = 0.2
ROWS = 20

type Wait = Callable[[Awaitable[None]], None]


async def ready() -> None:
    """Waits for nothing."""


async def turn() -> None:
    """Waits for one turn of the loop."""
    await asyncio.sleep(0)


class Helper:
    """A thread that completes futures of a loop."""

    def __init__(self) -> None:
        self._futures: queue.SimpleQueue[asyncio.Future[None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while (future := self._futures.get()) is not None:
            future.get_loop().call_soon_threadsafe(future.set_result, None)

    async def wait(self) -> None:
        """Wait for the thread."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._futures.put(future)
        await future

    def end(self) -> None:
        """End the thread."""
        self._futures.put(None)
        self._thread.join()


def waited(wait: Wait, kind: str, count: int) -> float:
    """Microseconds per wait for one kind of awaitable."""
    helper = Helper()
    make = {"ready": ready, "turn": turn, "thread": helper.wait}[kind]
    try:
        began = time.perf_counter()
        for _ in range(count):
            wait(make())
        return (time.perf_counter() - began) / count * 1e6
    finally:
        helper.end()


def blocked_on(kind: str, count: int) -> float:
    """``block_on`` in a step of our loop."""

    async def main() -> float:
        return waited(hybridexec.block_on, kind, count)

    return hybridexec.run(main())


def on_another_thread(kind: str, count: int) -> float:
    """``run_coroutine_threadsafe(...).result()``: a loop runs on another thread, for the synchronous code."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        return waited(lambda coro: asyncio.run_coroutine_threadsafe(coro, loop).result(), kind, count)  # type: ignore[arg-type]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def nested(kind: str, count: int) -> float:
    """nest_asyncio on asyncio's loop.  It changes asyncio for good: so in a process of its own."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_nested, kind, count).result()


def _nested(kind: str, count: int) -> float:
    import nest_asyncio

    nest_asyncio.apply()

    async def main() -> float:
        wait: Any = asyncio.get_running_loop().run_until_complete
        return waited(wait, kind, count)

    return asyncio.run(main())


KINDS = {
    "ready": "what is ready at once",
    "turn": "what waits for a turn of the loop",
    "thread": "what another thread completes",
}


def bridge(quick: bool) -> Iterator[Row]:
    """Synchronous code in a step waits for a coroutine."""
    rounds, count = (1, 200) if quick else (5, 5_000)
    how = median_of(rounds)
    peers: dict[str, Callable[[str, int], float]] = {"ours": blocked_on, "threadsafe": on_another_thread}
    if importlib.util.find_spec("nest_asyncio") is not None:
        peers["nest_asyncio"] = nested
    for kind, what in KINDS.items():
        found = in_turns(rounds, {name: partial(peer, kind, count) for name, peer in peers.items()})
        others = ", ".join(f"{name} {median(times):.1f} µs" for name, times in found.items() if name != "ours")
        yield Row(f"bridge.{kind}", f"block_on of {what}", median(found["ours"]), "µs", how, others)
        for name in found:
            if name != "ours":
                yield Row(f"bridge.{kind}-by-{name}", f"... by {name}", ratio(found["ours"], found[name]), "", how)


async def queried(seconds: float, blockers: int) -> list[float]:
    """Tasks that query through SQLAlchemy's asyncio extension, beside others that block: the time each query took."""
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    took: list[float] = []
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        engine = create_async_engine(f"sqlite+aiosqlite:///{folder}/accounts.db")

        async def query() -> None:
            while time.monotonic() < until:
                began = time.monotonic()
                async with AsyncSession(engine) as session:
                    rows = await session.execute(text("select money from account order by money limit 20"))
                    assert len(rows.all()) == ROWS
                took.append(time.monotonic() - began)

        async def block() -> None:
            while time.monotonic() < until:
                time.sleep(NAP)
                await asyncio.sleep(0)

        async with engine.begin() as connection:
            await connection.execute(text("create table account (money integer)"))
            for money in range(ROWS):
                await connection.execute(text("insert into account values (:money)"), {"money": money})
        await asyncio.gather(*(query() for _ in range(QUERIES)), *(block() for _ in range(blockers)))
        await engine.dispose()
    return took


def database(quick: bool) -> Iterator[Row]:
    """SQLAlchemy's asyncio extension on aiosqlite, alone and beside tasks that block."""
    rounds, seconds = (1, 0.5) if quick else (5, 3.0)
    how = median_of(rounds)

    def measured(run: Callable[[Any], list[float]], blockers: int) -> tuple[float, float]:
        took = run(queried(seconds, blockers))
        return percentile(took, 0.99) * 1e3, len(took) / seconds

    ours, theirs = partial(measured, hybridexec.run), partial(measured, asyncio.run)
    peers = {"alone": partial(ours, 0), "beside": partial(ours, BLOCKERS)}
    peers |= {"asyncio alone": partial(theirs, 0), "asyncio beside": partial(theirs, BLOCKERS)}
    found = in_turns(rounds, peers)
    tails = {name: [figure[0] for figure in figures] for name, figures in found.items()}
    rates = {name: [figure[1] for figure in figures] for name, figures in found.items()}
    note = f"asyncio {median(tails['asyncio alone']):.1f} ms"
    yield Row("database.p99-alone", f"{QUERIES} tasks that query: p99", median(tails["alone"]), "ms", how, note)
    note = f"asyncio {median(tails['asyncio beside']):,.0f} ms"
    what = f"... beside {BLOCKERS} tasks that do time.sleep({NAP})"
    yield Row("database.p99-beside", what, median(tails["beside"]), "ms", how, note)
    yield Row("database.by-alone", "... by alone", ratio(tails["beside"], tails["alone"]), "", how)
    note = f"asyncio {median(rates['asyncio alone']):,.0f}/s"
    yield Row("database.rate-alone", "... queries", median(rates["alone"]), "/s", how, note)
    yield Row("database.rate-by-asyncio", "... by asyncio", ratio(rates["alone"], rates["asyncio alone"]), "", how)


BENCHMARKS: dict[str, Benchmark] = {"bridge": bridge, "database": database}
