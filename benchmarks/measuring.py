"""How figures are made of measurements on a machine that has moods."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median


def in_turns[T](rounds: int, peers: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Measure peers in turns: the mood of a shared machine is then everybody's.  Every second round goes backwards."""
    found: dict[str, list[T]] = {name: [] for name in peers}
    for number in range(rounds):
        for name in sorted(peers, reverse=number % 2 == 1):
            found[name].append(peers[name]())
    return found


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of the rounds; infinite where they had nothing to show."""
    return median(a / b if b else math.inf for a, b in zip(ours, theirs, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of all are below."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def median_of(rounds: int) -> str:
    """What the figure is called that comes of some rounds."""
    return "one run" if rounds == 1 else f"median of {rounds}"
