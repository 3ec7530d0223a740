"""What was measured, and the two loops side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table

from ..table import time


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured of one loop.

    Attributes:
        rate: requests per second.
        p50: the median latency, in seconds.
        p99: the latency that one request in a hundred exceeds, in seconds.
        failures: how many requests got no good response.
        stalls: how often the service stood still.
        stalled: for how long, in seconds.
        longest: for how long at most, in seconds.
    """

    rate: float
    p50: float
    p99: float
    failures: int
    stalls: int
    stalled: float
    longest: float


def percentile(values: Sequence[float], fraction: float) -> float:
    """The value that a fraction of all values does not exceed.

    Args:
        values: at least one.
        fraction: from 0 to 1.

    Returns:
        One of the values (nearest rank).
    """
    ranked = sorted(values)
    return ranked[max(0, math.ceil(fraction * len(ranked)) - 1)]


def side_by_side(default: Result, ours: Result) -> Table:
    """Lay out two results.

    Args:
        default: of the default loop.
        ours: of ours.

    Returns:
        The table, with how many times better ours is.
    """
    table = Table()
    table.add_column("")
    for name in ("asyncio", "hybridexec", "better by"):
        table.add_column(name, justify="right", no_wrap=True)

    def row(name: str, value: Callable[[Result], float], show: Callable[[float], str], ratio: float | None) -> None:
        times = "" if ratio is None else f"{ratio:.1f} x"
        table.add_row(name, show(value(default)), show(value(ours)), times)

    def count(value: float) -> str:
        return f"{value:,.0f}"

    row("requests/s", lambda r: r.rate, count, _ratio(ours.rate, default.rate))
    row("p50", lambda r: r.p50, time, _ratio(default.p50, ours.p50))
    row("p99", lambda r: r.p99, time, _ratio(default.p99, ours.p99))
    row("stalled in all", lambda r: r.stalled, time, None)
    row("longest stall", lambda r: r.longest, time, None)
    row("stalls", lambda r: r.stalls, count, None)
    if default.failures or ours.failures:
        row("failed requests", lambda r: r.failures, count, None)
    return table


def _ratio(more: float, less: float) -> float | None:
    return more / less if less > 0 else None
