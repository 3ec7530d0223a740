"""Report: where a program blocked, how often, for how long, and how that was noticed."""

from __future__ import annotations

import asyncio
import threading
import weakref
from dataclasses import dataclass

from ..observing.upcalls import CallSite, Detection, Instrument, Upcall
from ..platform.clock import monotonic

type Group = tuple[CallSite | None, str | None]
type _Block = tuple[str, CallSite | None, str | None]

MOST = 5000
"""Rows of a report; a program that makes code while it runs may block at any number of lines."""

OTHERS: Group = None, "(at other lines)"
"""The row of all that there is no other row for any more."""


@dataclass(frozen=True, slots=True)
class ReportRow:
    """What is known of one line of the program and one callable.

    Attributes:
        site: where the call stands, the first time: often in a library; None where it is not known.
        callable: the blocking callable; None where it is not known.
        detections: every way in which it was noticed, in the order of :class:`~hybridexec.Detection`.
        count: how often it blocked; the blocks that are not over are among them.
        total: seconds that its blocks took, as far as they are over.
        longest: the longest of these, in seconds.
        pending: how many of its blocks are not over.
        pending_time: seconds since the first of these began; 0 if there is none.
        program_site: the program's line; the call's where that is not known.
        via: the function that the program has called there, the first time, if that is not the callable itself.
    """

    site: CallSite | None
    callable: str | None
    detections: tuple[Detection, ...]
    count: int
    total: float
    longest: float
    pending: int = 0
    pending_time: float = 0.0
    program_site: CallSite | None = None
    via: str | None = None


class _Tally:
    __slots__ = ("count", "detections", "longest", "site", "total", "via")

    def __init__(self, site: CallSite | None, via: str | None) -> None:
        self.site = site
        self.via = via
        self.count = 0
        self.total = 0.0
        self.longest = 0.0
        self.detections: set[Detection] = set()


class Report(Instrument):
    """Adds up blocks by the program's line and the callable; beyond :data:`MOST` of these, all that is new in one row.

    One report may serve any number of loops.  Its methods may be called from any thread, and from a signal handler.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may read while the thread that it interrupts writes
        self._tallies: dict[Group, _Tally] = {}
        # What has begun, by LWP and call: an LWP has one step, so it is in a call once.
        self._begun: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Block, tuple[float, Group]]]
        self._begun = weakref.WeakKeyDictionary()

    def group_of(self, upcall: Upcall) -> Group:
        """What the row of an upcall is known by."""
        group = upcall.program_site or upcall.site, upcall.callable
        return group if group in self._tallies or len(self._tallies) < MOST else OTHERS

    def blocked(self, upcall: Upcall) -> None:
        """Count a block."""
        with self._lock:
            self._count(upcall)
            self._begun.setdefault(upcall.loop, {})[_block(upcall)] = upcall.time, self.group_of(upcall)

    def unblocked(self, upcall: Upcall) -> None:
        """Add the time of a block that is over; what was noticed afterwards only is counted here."""
        duration = upcall.duration or 0.0
        with self._lock:
            begun = self._begun.get(upcall.loop, {}).pop(_block(upcall), None)
            tally = self._count(upcall) if begun is None else self._tally(upcall)
            tally.total += duration
            tally.longest = max(tally.longest, duration)

    def rows(self) -> list[ReportRow]:
        """The report so far.

        Returns:
            A row for each line of the program and callable, the most expensive first.
        """
        now = monotonic()
        with self._lock:
            pending: dict[Group, list[float]] = {}
            for loop, begun in self._begun.items():
                if loop.is_closed():
                    continue  # its steps are over: what has no end was never made (mode "raise")
                for since, group in begun.values():
                    pending.setdefault(group, []).append(max(0.0, now - since))
            rows = [self._row(group, tally, pending.get(group, [])) for group, tally in self._tallies.items()]
        rows.sort(key=lambda row: (row.total + row.pending_time, row.count), reverse=True)
        return rows

    def frozen_time(self) -> float:
        """How long a default loop would have stood still.

        Returns:
            The sum of all blocks that are over, in seconds.
        """
        with self._lock:
            return sum(tally.total for tally in self._tallies.values())

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._tallies.clear()
            self._begun.clear()

    def _tally(self, upcall: Upcall) -> _Tally:
        group = self.group_of(upcall)
        tally = self._tallies.get(group)
        if tally is None:
            tally = self._tallies[group] = _Tally(None, None) if group is OTHERS else _Tally(upcall.site, upcall.via)
        if upcall.detection is not None:
            tally.detections.add(upcall.detection)
        return tally

    def _count(self, upcall: Upcall) -> _Tally:
        tally = self._tally(upcall)
        tally.count += 1
        return tally

    @staticmethod
    def _row(group: Group, tally: _Tally, pending: list[float]) -> ReportRow:
        return ReportRow(
            site=tally.site,
            callable=group[1],
            detections=tuple(detection for detection in Detection if detection in tally.detections),
            count=tally.count,
            total=tally.total,
            longest=tally.longest,
            pending=len(pending),
            pending_time=max(pending, default=0.0),
            program_site=group[0],
            via=tally.via,
        )


def chain(via: str | None, callable: str | None) -> str:
    """What the program has called, for people: the callable, or by way of what it was called."""
    name = callable or "?"
    return name if via is None else f"{via} -> {name.rpartition('.')[2]}"


def _block(upcall: Upcall) -> _Block:
    return upcall.thread, upcall.site, upcall.callable
