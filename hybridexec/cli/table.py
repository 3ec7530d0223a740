"""The report as a table."""

from __future__ import annotations

import os
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..instruments import Report, ReportRow
from ..instruments.report import chain
from ..observing.upcalls import CallSite
from .ran import NOTHING_SEEN

_UNBOUNDED = 10_000  # columns; where nobody looks, no line is broken


def console(file: TextIO) -> Console:
    """A console for a file: without control codes and line breaks of its own where it is not a terminal."""
    return Console(file=file, width=None if file.isatty() else _UNBOUNDED, highlight=False, markup=False)


def print_report(
    report: Report,
    file: TextIO,
    heading: str = "",
    nothing: str = NOTHING_SEEN,
    besides: str = "",
) -> None:
    """Print a report.

    Args:
        report: the report.
        file: where to.
        heading: says which process it is of, if need be.
        nothing: what it says if it is empty.
        besides: what it could not see, if anything.
    """
    out = console(file)
    rows = report.rows()
    if rows:
        _print_rows(report, rows, out, heading)
    else:
        out.print(f"hybridexec{heading}: {nothing}")
    if besides:
        out.print(f"hybridexec{heading}: {besides}")


def _print_rows(report: Report, rows: list[ReportRow], out: Console, heading: str) -> None:
    count = sum(row.count for row in rows)
    calls = "1 blocking call" if count == 1 else f"{count} blocking calls"
    frozen = report.frozen_time()
    # In mode "raise" calls are refused: nobody knows how long they would have taken.
    still = f"; the default loop would have stood still for {time(frozen)}" if frozen else ""
    out.print(f"hybridexec{heading}: {calls}{still}")
    table = table_of(rows)
    if fits(table, out):
        out.print(table)
    else:
        out.print(*map(_lines_of, rows), sep="\n", soft_wrap=True)


def fits(table: Table, out: Console) -> bool:
    """Whether a console is wide enough for a table without a word being cut or broken."""
    unbounded = out.options.update(max_width=_UNBOUNDED)
    return out.measure(table, options=unbounded).minimum <= out.width


def table_of(rows: list[ReportRow]) -> Table:
    """Lay out the rows.

    Args:
        rows: what to show, in this order.

    Returns:
        The table; with a column for blocks that are not over only if there are such.
    """
    pending = any(row.pending for row in rows)
    table = Table()
    table.add_column("call site", no_wrap=True)
    table.add_column("callable", overflow="fold")
    table.add_column("noticed", overflow="fold")
    for name in ("count", "total", "longest"):
        table.add_column(name, justify="right", no_wrap=True)
    if pending:
        table.add_column("still blocked", justify="right", no_wrap=True)
    for row in rows:
        cells = [
            _place(row.program_site),
            chain(row.via, row.callable),
            _noticed(row),
            str(row.count),
            time(row.total) if row.total else "-",
            time(row.longest) if row.longest else "-",
        ]
        if pending:
            cells.append(f"{row.pending} for {time(row.pending_time)}" if row.pending else "")
        table.add_row(*map(Text, cells))
    for column in table.columns:
        if column.no_wrap:  # which does not keep it from being cut
            column.min_width = max(Text(str(cell)).cell_len for cell in (column.header, *column.cells))
    return table


def _lines_of(row: ReportRow) -> Text:
    """A row where there is no room for a table: the place, which nothing breaks, and the rest below it."""
    times = f"{time(row.total)} in all, the longest {time(row.longest)}" if row.total else "no time is known"
    pending = f"; {row.pending} still blocked for {time(row.pending_time)}" if row.pending else ""
    return Text(
        f"{_place(row.program_site)}\n"
        f"    {chain(row.via, row.callable)}, {_noticed(row)}\n"
        f"    {row.count} x, {times}{pending}"
    )


def _noticed(row: ReportRow) -> str:
    return ", ".join(detection.value for detection in row.detections) or "?"


def time(seconds: float) -> str:
    """A duration, for people."""
    return f"{seconds:.3f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _place(site: CallSite | None) -> str:
    if site is None:
        return "?"
    here = os.path.join(_here(), "")
    file = site.file.removeprefix(here) if len(here) > 1 else site.file
    return f"{file}:{site.line} {site.function}"


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:  # it has been removed
        return ""
