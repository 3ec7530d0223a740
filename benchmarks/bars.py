"""The bars: what the figures have to reach, under the names that the rows bear."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """What a figure has to reach.

    Attributes:
        limit: the worst value that is good enough.
        unit: its unit; a factor or a count has none.
        at_least: whether more is better.
    """

    limit: float
    unit: str = ""
    at_least: bool = False

    def reached_by(self, value: float) -> bool:
        """Whether a value is good enough."""
        return value >= self.limit if self.at_least else value <= self.limit


BARS = {
    "sleep.took": Bar(0.40, "s"),
    "sleep.late": Bar(10, "ms"),
    "ctypes.took": Bar(0.45, "s"),
    "ctypes.late": Bar(20, "ms"),
    "lock-acquire.still": Bar(15, "ms"),
    "lock-acquire.goes-on": Bar(15, "ms"),
    "lock-with.still": Bar(15, "ms"),
    "lock-with.goes-on": Bar(15, "ms"),
    "pipe.still": Bar(10, "ms"),
    "pipe.goes-on": Bar(10, "ms"),
    "preempt.late": Bar(60, "ms"),
    "blocking-20ms.of-ceiling": Bar(0.70, at_least=True),
    "blocking-20ms.by-offloaded": Bar(0.97, at_least=True),
    "blocking-20ms.p99-by-offloaded": Bar(1.0),
    "blocking-20ms.added-by-offloaded": Bar(0.5),
    "blocking-20ms.errors": Bar(0),
    "blocking-5ms.by-offloaded": Bar(1.3, at_least=True),
    "blocking-5ms.p99-by-offloaded": Bar(1.0),
    "blocking-5ms.added-by-offloaded": Bar(0.5),
    "blocking-5ms.errors": Bar(0),
    "blocking-1ms.by-offloaded": Bar(1.3, at_least=True),
    "blocking-1ms.p99-by-offloaded": Bar(1.0),
    "blocking-1ms.added-by-offloaded": Bar(0.5),
    "blocking-1ms.errors": Bar(0),
    "stops.unclean": Bar(0),
    "plain.by-uvloop": Bar(1.1, at_least=True),
    "plain.errors": Bar(0),
    "plain-uvloop.by-uvloop": Bar(0.97, at_least=True),
    "plain-uvloop.errors": Bar(0),
    "echo.64x1k-by-uvloop": Bar(1.0, at_least=True),
    "echo.1x1k-by-uvloop": Bar(1.0, at_least=True),
    "echo.16x64k-by-uvloop": Bar(1.0, at_least=True),
    "echo-tls.16x1k-by-uvloop": Bar(1.0, at_least=True),
    "echo-tls.16x64k-by-uvloop": Bar(1.0, at_least=True),
    "steps.turn-by-uvloop": Bar(0.9),
    "steps.timer-by-uvloop": Bar(0.9),
    "steps.yield-by-uvloop": Bar(0.9),
    "steps.task-by-uvloop": Bar(0.9),
    "database.by-alone": Bar(2.0),
    "submit.outside-by-pool": Bar(0.97, at_least=True),
    "submit.outside-processor-by-pool": Bar(1.3),
    "submit.inside-by-pool": Bar(0.9, at_least=True),
    "submit.inside-processor-by-pool": Bar(1.0),
    "many.lost": Bar(0),
    "many.memory": Bar(3, "KiB"),
    "asleep.took": Bar(1.3, "s"),
    "compress.times": Bar(1.7, at_least=True),
}
