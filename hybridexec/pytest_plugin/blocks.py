"""Blocks: where a suite's tests blocked, and which test did so first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from typing import Any

from ..instruments import Report
from ..instruments.report import Group, chain
from ..observing.upcalls import Upcall


@dataclass(slots=True)
class Row:
    """What is known of one call site and one callable.

    Attributes:
        callable: the blocking callable, or "?".
        site: the call site, or "?".
        count: how often it blocked.
        total: seconds that this took; 0 if the call was refused.
        longest: the longest time of these, in seconds.
        test: the first test that blocked there.
    """

    callable: str
    site: str
    count: int
    total: float
    longest: float
    test: str


class Blocks(Report):
    """A report that knows tests.  Thread-safe.

    Args:
        test: says which test runs now.
    """

    def __init__(self, test: Callable[[], str]) -> None:
        super().__init__()
        self._test = test
        self._first: dict[Group, str] = {}
        self._others: list[Row] = []

    def blocked(self, upcall: Upcall) -> None:
        """Count a block."""
        self._note(upcall)
        super().blocked(upcall)

    def unblocked(self, upcall: Upcall) -> None:
        """Add the time of a block that is over."""
        self._note(upcall)
        super().unblocked(upcall)

    def _note(self, upcall: Upcall) -> None:
        self._first.setdefault(self.group_of(upcall), self._test())

    def pack(self) -> list[tuple[Any, ...]]:
        """The rows as what may be sent to another process."""
        return [astuple(row) for row in self.table()]

    def add(self, packed: Iterable[tuple[Any, ...]]) -> None:
        """Add the rows of another process of the same suite."""
        self._others += [Row(*row) for row in packed]

    def table(self) -> list[Row]:
        """All rows, those of other processes among them.

        Returns:
            One for each call site and callable, the most expensive first.
        """
        merged: dict[tuple[str, str], Row] = {}
        own = [
            Row(
                chain(row.via, row.callable),
                str(row.program_site or "?"),
                row.count,
                row.total,
                row.longest,
                self._first.get((row.program_site, row.callable), "?"),
            )
            for row in self.rows()
        ]
        for row in (*own, *self._others):
            known = merged.setdefault((row.callable, row.site), Row(row.callable, row.site, 0, 0.0, 0.0, row.test))
            known.count += row.count
            known.total += row.total
            known.longest = max(known.longest, row.longest)
        return sorted(merged.values(), key=lambda row: (row.total, row.count), reverse=True)


def lines(rows: list[Row], base: str) -> list[str]:
    """Lay the rows out.

    Args:
        rows: what to show, in this order.
        base: the directory, with a separator at its end, that file names are shown relative to.

    Returns:
        The lines of a table, its heading first.
    """
    cells = [("count", "total", "longest", "call", "site", "first test")]
    for row in rows:
        times = (_time(row.total), _time(row.longest))
        cells.append((str(row.count), *times, row.callable, row.site.removeprefix(base), row.test))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            text.rjust(width) if number < 3 else text.ljust(width)
            for number, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def _time(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms" if seconds else "-"
