"""uvicorn under load: handlers that block, handlers that are offloaded by hand, handlers that do neither."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from statistics import median

from .loops import OURS, installed
from .measuring import in_turns, median_of, ratio
from .peers import BARE, CONNECTIONS, Served, Server, servers
from .results import Benchmark, Row

ON_UVLOOP = "thread+benchmarks.loops:on_uvloop"


def rate(loads: list[Served]) -> float:
    """The median rate of some loads."""
    return median(load.rate for load in loads)


def processor(loads: list[Served]) -> float:
    """The server's median processor time per request, in microseconds."""
    return median(load.processor for load in loads) * 1e6


def blocking(name: str, nap: float, quick: bool) -> Iterator[Row]:
    """A handler that blocks against the same handler offloaded by hand."""
    rounds, seconds = (1, 0.3) if quick else (5, 3.0)
    ceiling = CONNECTIONS / nap
    kinds = {
        "ours": ("blocking", OURS),
        "engine": ("blocking", ON_UVLOOP),
        "asyncio": ("offloaded", "asyncio"),
        "uvloop": ("offloaded", "uvloop"),
        "bare": (BARE, ""),
        "plain": ("plain", OURS),
        "plain asyncio": ("plain", "asyncio"),
        "plain uvloop": ("plain", "uvloop"),
    }
    with servers(*kinds.values(), ("blocking", "asyncio"), nap=nap) as (*made, frozen):
        peers = {kind: partial(server.load, seconds) for kind, server in zip(kinds, made, strict=True)}
        found = in_turns(rounds, peers)
        # Each request waits for all others: the time for one of each connection, or two.
        alone = frozen.load((1 if quick else 2) * CONNECTIONS * nap)
    how, total = median_of(rounds), f"sum of {rounds}"
    mine, offloaded = found["ours"], {peer: found[peer] for peer in ("asyncio", "uvloop")}
    best = max(offloaded, key=lambda peer: rate(offloaded[peer]))
    rates = ", ".join(f"{peer} {rate(loads):,.0f}/s" for peer, loads in offloaded.items())
    costs = ", ".join(f"{peer} {processor(loads):.0f} µs" for peer, loads in offloaded.items())
    tails = ", ".join(f"{peer} {median(load.p99 for load in loads) * 1e3:.1f} ms" for peer, loads in offloaded.items())
    default = f"default loop: {alone.rate:,.0f}/s"
    yield Row(f"{name}.rate", f"time.sleep({nap}) in the handler", rate(mine), "/s", how, default)
    yield Row(f"{name}.of-ceiling", "... of the ceiling", rate(mine) / ceiling, "", how, f"{ceiling:,.0f}/s")
    by_offloaded = ratio([load.rate for load in mine], [load.rate for load in offloaded[best]])
    yield Row(f"{name}.by-offloaded", "... by the better one offloaded", by_offloaded, "", how, f"offloaded: {rates}")
    limit = f"{processor(found['bare']):.0f} µs, p99 {median(load.p99 for load in found['bare']) * 1e3:.1f} ms"
    yield Row(f"{name}.limit", "a bare server with a thread for each", rate(found["bare"]), "/s", how, limit)
    yield Row(f"{name}.p99", "... p99", median(load.p99 for load in mine) * 1e3, "ms", how, f"offloaded: {tails}")
    by_tail = ratio([load.p99 for load in mine], [load.p99 for load in offloaded[best]])
    yield Row(f"{name}.p99-by-offloaded", "... by the better one offloaded", by_tail, "", how)
    yield Row(f"{name}.processor", "... processor per request", processor(mine), "µs", how, f"offloaded: {costs}")
    added = processor(mine) - processor(found["plain"])
    theirs = processor(offloaded[best]) - processor(found[f"plain {best}"])
    what = "... processor added by blocking, by that of offloading"
    yield Row(f"{name}.added-by-offloaded", what, added / theirs, "", how, f"{added:.0f} µs, offloaded {theirs:.0f} µs")
    engine = found["engine"]
    yield Row(f"{name}.rate-on-uvloop", "... with the uvloop engine", rate(engine), "/s", how)
    yield Row(f"{name}.processor-on-uvloop", "... processor per request", processor(engine), "µs", how)
    errors = sum(load.errors for load in (*mine, *engine))
    others = sum(load.errors for loads in offloaded.values() for load in loads) + alone.errors
    yield Row(f"{name}.errors", "... errors", errors, "", total, f"peers: {others}")


def blocking_20_ms(quick: bool) -> Iterator[Row]:
    """uvicorn, a handler that does time.sleep(0.02), against the same offloaded by hand."""
    yield from blocking("blocking-20ms", 0.02, quick)


def blocking_5_ms(quick: bool) -> Iterator[Row]:
    """uvicorn, a handler that does time.sleep(0.005), against the same offloaded by hand."""
    yield from blocking("blocking-5ms", 0.005, quick)


def blocking_1_ms(quick: bool) -> Iterator[Row]:
    """uvicorn, a handler that does time.sleep(0.001), against the same offloaded by hand."""
    yield from blocking("blocking-1ms", 0.001, quick)


def stops(quick: bool) -> Iterator[Row]:
    """uvicorn, SIGTERM in the middle of the load: stops that are not clean."""
    count = 1 if quick else 20
    complaints = [Server("blocking", OURS, 0.02).stop_under_load() for _ in range(count)]
    sys.stderr.write("".join(complaints))
    unclean = sum(1 for complaint in complaints if complaint)
    yield Row("stops.unclean", "SIGTERM under load: unclean stops", unclean, "", f"sum of {count}")


def plain(quick: bool) -> Iterator[Row]:
    """uvicorn, a handler that does not block, against all loops that are installed."""
    rounds, seconds = (1, 0.5) if quick else (11, 2.0)
    loops = installed()
    with servers(*(("plain", loop) for loop in loops.values())) as made:
        peers = {name: partial(server.load, seconds) for name, server in zip(loops, made, strict=True)}
        found = in_turns(rounds, peers)
    how, total = median_of(rounds), f"sum of {rounds}"
    mine = found.pop("ours")
    rates = ", ".join(f"{peer} {rate(loads):,.0f}/s" for peer, loads in found.items())
    costs = ", ".join(f"{peer} {processor(loads):.1f} µs" for peer, loads in found.items())
    yield Row("plain.rate", "a handler that does not block", rate(mine), "/s", how, rates)
    for peer, loads in found.items():
        by_peer = ratio([load.rate for load in mine], [load.rate for load in loads])
        yield Row(f"plain.by-{peer}", f"... by {peer}", by_peer, "", how)
    yield Row("plain.processor", "... processor per request", processor(mine), "µs", how, costs)
    yield Row("plain.errors", "... errors", sum(load.errors for load in mine), "", total)


def plain_uvloop(quick: bool) -> Iterator[Row]:
    """uvicorn on a thread, a handler that does not block, with the uvloop engine against uvloop."""
    rounds, seconds = (1, 0.5) if quick else (11, 2.0)
    loops = {"ours": ON_UVLOOP, "uvloop": "thread+uvloop"}
    with servers(*(("plain", loop) for loop in loops.values())) as made:
        peers = {name: partial(server.load, seconds) for name, server in zip(loops, made, strict=True)}
        found = in_turns(rounds, peers)
    how = median_of(rounds)
    mine, theirs = found["ours"], found["uvloop"]
    by_uvloop = ratio([load.rate for load in mine], [load.rate for load in theirs])
    what = "a handler that does not block, the uvloop engine on a thread"
    yield Row("plain-uvloop.rate", what, rate(mine), "/s", how, f"uvloop {rate(theirs):,.0f}/s")
    yield Row("plain-uvloop.by-uvloop", "... by uvloop on a thread", by_uvloop, "", how)
    note = f"uvloop {processor(theirs):.1f} µs"
    yield Row("plain-uvloop.processor", "... processor per request", processor(mine), "µs", how, note)
    errors = sum(load.errors for load in mine)
    yield Row("plain-uvloop.errors", "... errors", errors, "", f"sum of {rounds}")


BENCHMARKS: dict[str, Benchmark] = {
    "blocking-20ms": blocking_20_ms,
    "blocking-5ms": blocking_5_ms,
    "blocking-1ms": blocking_1_ms,
    "stops": stops,
    "plain": plain,
    "plain-uvloop": plain_uvloop,
}
