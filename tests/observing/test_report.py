"""The report: blocks added up by call site and callable, over all loops and threads."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import io
import os
import threading
import time
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

import hybridexec
from hybridexec import CallSite, Detection, Upcall, UpcallKind
from hybridexec.cli import table
from hybridexec.instruments import Report, ReportRow


def row_of(site: CallSite, callable: str, detections: tuple[Detection, ...], *figures: Any) -> ReportRow:
    """A row of a call that is the program's own."""
    return dataclasses.replace(ReportRow(site, callable, detections, *figures), program_site=site)


HERE = CallSite("app.py", 7, "handler")
THERE = CallSite("app.py", 9, "other")


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop for upcalls to name."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def upcall(
    kind: UpcallKind,
    loop: asyncio.AbstractEventLoop,
    *,
    site: CallSite = HERE,
    callable: str = "time.sleep",
    lwp: str = "hybridexec-lwp-1",
    detection: Detection = Detection.DECLARED,
    duration: float | None = None,
    began: float | None = None,
) -> Upcall:
    """An upcall, as the core would make it."""
    when = monotonic() if began is None else began
    return Upcall(kind, when, loop, lwp, "task", site, callable, detection, duration)


def block(report: Report, loop: asyncio.AbstractEventLoop, duration: float, **more: object) -> None:
    """A block that is over."""
    report.blocked(upcall(UpcallKind.BLOCKED, loop, **more))  # type: ignore[arg-type]
    report.unblocked(upcall(UpcallKind.UNBLOCKED, loop, duration=duration, **more))  # type: ignore[arg-type]


def printed(report: Report) -> list[str]:
    """The lines of the report on what is no terminal."""
    out = io.StringIO()
    table.print_report(report, out)
    return out.getvalue().splitlines()


def test_blocks_are_grouped_by_site_and_callable(loop: asyncio.AbstractEventLoop) -> None:
    report = Report()
    block(report, loop, 0.1)
    block(report, loop, 0.3, detection=Detection.DISCOVERED)
    block(report, loop, 2.0, callable="os.read")
    block(report, loop, 1.0, site=THERE)
    assert report.rows() == [
        row_of(HERE, "os.read", (Detection.DECLARED,), 1, 2.0, 2.0),
        row_of(THERE, "time.sleep", (Detection.DECLARED,), 1, 1.0, 1.0),
        row_of(HERE, "time.sleep", (Detection.DECLARED, Detection.DISCOVERED), 2, 0.1 + 0.3, 0.3),
    ]
    assert report.frozen_time() == pytest.approx(3.4)


def test_a_block_that_is_not_over_is_shown_as_such(loop: asyncio.AbstractEventLoop) -> None:
    report = Report()
    block(report, loop, 0.1, lwp="hybridexec-lwp-2")
    report.blocked(upcall(UpcallKind.BLOCKED, loop, began=monotonic() - 5))
    (row,) = report.rows()
    assert (row.count, row.total, row.pending) == (2, 0.1, 1)
    assert 5 <= row.pending_time < 60
    assert "still blocked" in printed(report)[2]
    assert "1 for 5." in printed(report)[4]


def test_what_was_noticed_afterwards_only_counts_too(loop: asyncio.AbstractEventLoop) -> None:
    report = Report()
    report.unblocked(upcall(UpcallKind.UNBLOCKED, loop, detection=Detection.HELD_GIL, duration=0.2))
    assert report.rows() == [row_of(HERE, "time.sleep", (Detection.HELD_GIL,), 1, 0.2, 0.2)]


def test_nothing_is_blocked_in_a_loop_that_is_closed_or_gone() -> None:
    report = Report()
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    for loop in (first, second):
        report.blocked(upcall(UpcallKind.BLOCKED, loop))
        assert report.rows()[0].pending == 1
        loop.close()
        assert report.rows()[0].pending == 0
    del first, second, loop
    gc.collect()
    assert report.rows() == [row_of(HERE, "time.sleep", (Detection.DECLARED,), 2, 0.0, 0.0)]


def test_a_cleared_report_is_empty(loop: asyncio.AbstractEventLoop) -> None:
    report = Report()
    block(report, loop, 0.1)
    report.blocked(upcall(UpcallKind.BLOCKED, loop))
    report.clear()
    assert report.rows() == []
    assert report.frozen_time() == 0
    assert printed(report) == ["hybridexec: no blocking call was seen (one of less than 1 ms is not counted)"]


def test_upcalls_of_many_threads_are_all_counted(loop: asyncio.AbstractEventLoop) -> None:
    report = Report()
    start = threading.Barrier(8)

    def emit(number: int) -> None:
        start.wait()
        for _ in range(500):
            block(report, loop, 1.0, lwp=f"hybridexec-lwp-{number}")
            report.rows()

    threads = [threading.Thread(target=emit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert report.rows() == [row_of(HERE, "time.sleep", (Detection.DECLARED,), 4000, 4000.0, 1.0)]


def test_the_table_of_no_terminal_has_whole_lines_and_no_control_codes(loop: asyncio.AbstractEventLoop) -> None:
    report = Report()
    site = CallSite("/far/away/" + "x" * 300 + "/[bold]app.py", 7, "Service.handler.<locals>.<lambda>")
    block(report, loop, 1.5, site=site, callable="very.long." + "y" * 200)
    lines = printed(report)
    assert lines[0] == "hybridexec: 1 blocking call; the default loop would have stood still for 1.500 s"
    assert f"{site.file}:7 {site.function}" in lines[4]
    assert "\x1b" not in "".join(lines)


def test_a_call_that_was_refused_has_no_time(loop: asyncio.AbstractEventLoop) -> None:
    """Mode "raise": nobody knows how long it would have blocked."""
    report = Report()
    report.blocked(upcall(UpcallKind.BLOCKED, loop))
    loop.close()
    lines = printed(report)
    assert lines[0] == "hybridexec: 1 blocking call"
    assert lines[4].count(" - ") == 2


def test_a_site_below_the_current_folder_is_shown_from_there(loop: asyncio.AbstractEventLoop) -> None:
    report = Report()
    block(report, loop, 0.1, site=CallSite(os.path.join(os.getcwd(), "sub", "app.py"), 7, "handler"))
    assert f" {os.path.join('sub', 'app.py')}:7 handler " in printed(report)[4]


def test_a_report_serves_several_loops_and_names_the_program_s_own_lines() -> None:
    report = Report()

    async def main() -> None:
        time.sleep(0.02)

    for _ in range(2):
        hybridexec.run(main(), instruments=[report])
    thread = threading.Thread(target=lambda: hybridexec.run(main(), instruments=[report]))
    thread.start()
    thread.join()
    (row,) = report.rows()
    assert row.site == CallSite(__file__, main.__code__.co_firstlineno + 1, main.__qualname__)
    assert row.callable == "time.sleep"
    assert row.detections == (Detection.DECLARED,)
    assert (row.count, row.pending) == (3, 0)
    assert 0.06 <= row.total < 30
    assert 0.02 <= row.longest <= row.total
    assert report.frozen_time() == row.total


def test_a_call_that_mode_raise_refuses_is_counted() -> None:
    report = Report()

    async def main() -> None:
        for _ in range(3):
            with pytest.raises(hybridexec.BlockingCallError):
                time.sleep(0.5)

    hybridexec.run(main(), mode="raise", instruments=[report])
    (row,) = report.rows()
    assert (row.count, row.total, row.pending) == (3, 0.0, 0)


def test_a_report_has_a_bounded_number_of_rows(loop: asyncio.AbstractEventLoop) -> None:
    report = Report()
    for line in range(7000):
        site = CallSite("<made>", line, "f")
        for kind, duration in (UpcallKind.BLOCKED, None), (UpcallKind.UNBLOCKED, 1.0):
            upcall = Upcall(kind, 0.0, loop, "lwp", site=site, callable="time.sleep", duration=duration)
            (report.blocked if duration is None else report.unblocked)(upcall)
    rows = report.rows()
    assert len(rows) == 5001
    assert sum(row.count for row in rows) == sum(row.total for row in rows) == 7000
    (others,) = [row for row in rows if row.count > 1]
    assert (others.count, others.pending) == (2000, 0)
    assert (others.site, others.program_site, others.callable) == (None, None, "(at other lines)")
