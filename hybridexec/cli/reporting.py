"""The process's report: one for all its loops, shown on stderr when the process ends.

The loops get it as an instrument, by its name in the environment; so a child process that makes loops has a report
too, and shows it under its process id.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import types

from ..instruments import Report
from . import ran, table

NAME = f"{__name__}:shared"
"""What the instruments' variable of the environment names."""

_lock = threading.Lock()
_report: Report | None = None
_heading = ""
_program: int | None = None


def start() -> None:
    """Have a report shown at the end, even if no loop is ever made."""
    ran.watch()
    _begin("")


def expect() -> None:
    """This process is the program itself, if it makes a loop: its report will need no heading then."""
    global _program
    _program = os.getpid()


def shared() -> Report:
    """The report of this process.  Thread-safe.

    Returns:
        The same object each time.
    """
    return _begin("" if os.getpid() == _program else f" (process {os.getpid()})")


def _begin(heading: str) -> Report:
    global _report, _heading
    with _lock:
        if _report is not None:
            return _report
        report = _report = Report()
        _heading = heading
    atexit.unregister(show)  # a forked process has its parent's
    atexit.register(show)
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        # Such a process may end without Python's exit handlers.
        from multiprocessing.util import Finalize

        Finalize(None, show, exitpriority=-1)
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminated)
    return report


def show() -> None:
    """Show the report on stderr, once."""
    global _report
    report, _report = _report, None
    if report is not None and sys.stderr is not None:
        # Nobody reads, or the handler has interrupted a write: there is no place left where to say so.
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            table.print_report(report, sys.stderr, _heading, ran.nothing(), ran.besides())


def _terminated(number: int, frame: types.FrameType | None) -> None:
    """SIGTERM kills the process as it would have done, but for the report."""
    show()
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def _in_child() -> None:
    """A forked process has made no loop yet; and whoever held the lock is not there."""
    global _report, _lock
    _lock = threading.Lock()
    _report = None
    ran.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
