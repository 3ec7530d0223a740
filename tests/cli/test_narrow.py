"""What the command line shows on a narrow terminal: nothing is cut, and a place is in one piece."""

from __future__ import annotations

import io
import itertools
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import results
from hybridexec import CallSite, Detection
from hybridexec.cli import doctor, table
from hybridexec.cli.demo.comparison import Result, side_by_side
from hybridexec.cli.doctor import Finding, State
from hybridexec.instruments import Report, ReportRow

NARROW = pytest.mark.parametrize("width", [80, 60])

DEEP = "/srv/applications/shop/releases/2026-11-30/shop/handlers/billing.py"


class Terminal(io.StringIO):
    """Takes what is printed, as a terminal."""

    def isatty(self) -> bool:
        return True

    @property
    def plain(self) -> str:
        """What is seen."""
        return re.sub("\x1b\\[[0-9;]*m", "", self.getvalue())


@pytest.fixture
def terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """One of this width."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    return Terminal()


class Rows(Report):
    """A report of given rows."""

    def __init__(self, *rows: ReportRow) -> None:
        super().__init__()
        self._given = list(rows)

    def rows(self) -> list[ReportRow]:
        return self._given


def row(file: str, function: str, **others: Any) -> ReportRow:
    site = CallSite(file, 1234, function)
    given: dict[str, Any] = {"detections": (Detection.DECLARED,), "total": 0.1, "longest": 0.1, "count": 1}
    return ReportRow(site, "time.sleep", **{**given, "program_site": site, **others})


VIEWS = {
    "deep": row(DEEP, "Billing.charge.<locals>.attempt"),
    "all columns": row(
        DEEP,
        "charge",
        detections=tuple(Detection),
        count=123_456,
        total=123_456.7,
        longest=2345.6,
        pending=3,
        pending_time=1234.5,
        via="concurrent.futures._base.Future.result",
    ),
    "refused": row(DEEP, "charge", total=0.0, longest=0.0),
    "spaces": row("/home/somebody else/my programs/service of mine.py", "charge"),
    "wide letters": row("/home/利用者/プロジェクト/サービス/請求処理.py", "支払う"),
    "unknown": ReportRow(None, None, (), 1, 0.0, 0.0),
    "short": row("app.py", "main"),
}


@NARROW
@pytest.mark.parametrize("name", VIEWS)
def test_the_report(name: str, width: int, terminal: Terminal) -> None:
    given = VIEWS[name]
    table.print_report(Rows(given), terminal)
    shown = terminal.plain
    assert "…" not in shown
    place = "?" if given.program_site is None else str(given.program_site).replace(":1234:", ":1234 ")
    assert any(place in line for line in shown.splitlines()), shown
    last = "?" if given.callable is None else "sleep" if given.via is None else f"{given.via} -> sleep"
    words = " ".join(re.sub("[│\n]", " ", shown).split())
    assert last in words
    assert all(detection.value in words for detection in given.detections)
    assert "123456" in words or given.count == 1
    assert "3 still blocked for 1234.500 s" in words or not given.pending


@NARROW
def test_one_row_that_does_not_fit_makes_lines_of_all(width: int, terminal: Terminal) -> None:
    table.print_report(Rows(VIEWS["short"], VIEWS["deep"]), terminal)
    assert (
        f"app.py:1234 main\n    time.sleep, declared\n    1 x, 100.0 ms in all, the longest 100.0 ms\n{DEEP}:1234 "
        in (terminal.plain)
    )


@NARROW
def test_the_report_is_a_table_where_it_fits(width: int, terminal: Terminal) -> None:
    table.print_report(Rows(row("a.py", "main")), terminal)
    lines = terminal.plain.splitlines()
    if width == 80:
        assert any(re.match(r"│ a\.py:1234 main │ time\.sleep │ declared +│", line) for line in lines)
    assert max(map(len, lines)) <= width


@NARROW
@pytest.mark.parametrize("file", ["short.py", DEEP])
def test_doctor(file: str, width: int, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    site = f"{file}:7:One.blocked"
    findings = [
        Finding("what follows the loop", State.BROKEN, f"Secret at {site}"),
        Finding("selector: a call nobody declared", State.FINE, "the loop has moved while a step blocked"),
    ]
    monkeypatch.setattr(sys, "stdout", terminal)
    shown = doctor._laid_out(findings)
    plain = re.sub("\x1b\\[[0-9;]*m", "", shown)
    assert "…" not in plain
    assert any(site in line for line in plain.splitlines())
    assert ("│" in plain) == (file == "short.py")


@NARROW
def test_doctor_of_this_machine(width: int, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_engines", lambda: iter(()))
    findings = list(doctor.examine())
    monkeypatch.setattr(sys, "stdout", terminal)
    shown = doctor._laid_out(findings)
    words = " ".join(re.sub("[│\n]|\x1b\\[[0-9;]*m", " ", shown).split())
    for finding in findings:
        assert all(word in words for word in finding.says.split()), finding


def printed(what: Any, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(what)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return lines


def column(lines: list[str], number: int) -> str:
    """All that a column has, in one piece."""
    return "".join(line.split("│")[number + 1].strip() for line in lines if line.startswith("│"))


@NARROW
def test_the_demo(width: int) -> None:
    slow = Result(1234.5, 123.4, 1234.5, 12, 123_456, 1234.5, 123.4)
    lines = printed(side_by_side(slow, slow), width)
    for text in ("requests/s", "longest stall", "failed requests", "1234.500 s", "123.400 s", "123,456", "1.0 x"):
        assert any(text in line for line in lines), text


@NARROW
def test_the_benchmarks(width: int) -> None:
    from benchmarks.__main__ import GROUPS  # late: the lowest typer warns on import

    rows = [
        results.Row(f"{name}.by-offloaded", "what it is", 12_345.6, "MiB", "median of 7", "3,100/s on uvloop")
        for name in itertools.chain.from_iterable(GROUPS.values())
    ]
    lines = printed(results.table(rows), width)
    assert column(lines, 0) == "".join(each.name for each in rows)
    assert column(lines, 2).replace(" ", "") == "12,346MiB" * len(rows)
    listed = printed(results.listing(GROUPS), width)
    assert column(listed, 1) == "".join(itertools.chain.from_iterable(GROUPS.values()))
    assert "…" not in "".join(lines + listed)


def test_no_terminal_has_a_table_as_wide_as_it_is(tmp_path: Path) -> None:
    out = io.StringIO()
    table.print_report(Rows(*VIEWS.values()), out)
    assert len({line.count("│") for line in out.getvalue().splitlines() if "│" in line}) == 1
