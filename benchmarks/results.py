"""What a benchmark says, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from .bars import BARS, Bar


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        name: the benchmark and the figure, ``sleep.late``; its bar is kept under the same name.
        what: the same, for people.
        value: the figure.
        unit: its unit; a factor has none.
        how: of how many runs, and which of them.
        note: what it is to be compared with.
    """

    name: str
    what: str
    value: float
    unit: str = ""
    how: str = ""
    note: str = ""

    @property
    def bar(self) -> Bar | None:
        """What it has to reach, if anything."""
        return BARS.get(self.name)

    @property
    def passed(self) -> bool | None:
        """Whether the bar is reached; None if there is none."""
        return None if self.bar is None else self.bar.reached_by(self.value)

    def as_json(self) -> dict[str, Any]:
        """All there is to say, for a file."""
        return {**asdict(self), "bar": self.bar and asdict(self.bar), "passed": self.passed}


type Benchmark = Callable[[bool], Iterator[Row]]
"""Measures, maybe quickly, and says what it has found."""


def show(value: float, unit: str) -> str:
    """A figure with as many digits as mean something."""
    size = abs(value)
    digits = 0 if size >= 1000 or value == int(value) else 1 if size >= 100 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}{unit and ' ' + unit}"


def show_bar(bar: Bar | None) -> str:
    """A bar, if there is one."""
    return "" if bar is None else f"{'≥' if bar.at_least else '≤'} {show(bar.limit, bar.unit)}"


def _table(*names: str) -> Table:
    """A table whose cells are broken where a console is narrow, and never cut."""
    made = Table()
    for name in names:
        made.add_column(name, overflow="fold")
    return made


def table(rows: Sequence[Row]) -> Table:
    """The figures side by side with their bars."""
    made = _table("name", "what")
    made.add_column("measured", justify="right", overflow="fold")
    made.add_column("bar", justify="right", overflow="fold")
    for name in ("reached", "how", "compare"):
        made.add_column(name, overflow="fold")
    for row in rows:
        reached = {None: "", True: "yes", False: "[bold red]NO"}[row.passed]
        figure, bar = show(row.value, row.unit), show_bar(row.bar)
        made.add_row(row.name, row.what, figure, bar, reached, row.how, row.note)
    return made


def listing(groups: dict[str, dict[str, Benchmark]]) -> Table:
    """The benchmarks, and the bars of each."""
    made = _table("group", "name", "what", "bars")
    for group, benchmarks in groups.items():
        for name, benchmark in benchmarks.items():
            bars = [
                f"{key.removeprefix(name + '.')} {show_bar(bar)}"
                for key, bar in BARS.items()
                if key.startswith(name + ".")
            ]
            made.add_row(group, name, (benchmark.__doc__ or "").splitlines()[0], ", ".join(bars))
    return made
