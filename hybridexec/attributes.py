"""Attributes: what a step asks of the system for "this thread" holds for the loop, on whichever thread that is.

CPU affinity, niceness (on Linux that of a thread, whatever POSIX says) and the signal mask belong to an OS thread, and
a new one has them from the thread that starts it.  So a spare that is started later has what a step has asked for, and
what is left is the spares that there are already: the detector sees the call, its outcome is noted, and an LWP that
takes the loop for the first time since then is given the same.

What C code sets by itself (``prctl``, ``psutil``) is not seen.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .lwp import LWP


class Values(NamedTuple):
    """What a thread has; None is what the system does not have, or has for processes only."""

    affinity: set[int] | None
    priority: int | None
    mask: set[int | signal.Signals] | None


class Attributes:
    """Those of one loop.  Only its holder changes them."""

    def __init__(self) -> None:
        self._values: Values | None = None

    def changed(self, lwp: LWP) -> None:
        """A step has asked for something, on the calling thread."""
        self._values = lwp.attributes = _own()

    def taken(self, lwp: LWP) -> OSError | None:
        """The calling thread, an LWP, holds the loop.  Returns what the system says if it refuses: what was allowed
        elsewhere may not be here, if the program has lost a privilege since."""
        wanted = self._values
        if lwp.attributes is wanted or wanted is None:
            return None
        lwp.attributes = wanted
        try:
            mine = _own()
            if wanted.mask is not None and wanted.mask != mine.mask:
                signal.pthread_sigmask(signal.SIG_SETMASK, wanted.mask)
            if wanted.affinity is not None and wanted.affinity != mine.affinity:
                os.sched_setaffinity(0, wanted.affinity)
            if wanted.priority is not None and wanted.priority != mine.priority:
                os.setpriority(os.PRIO_PROCESS, 0, wanted.priority)
        except OSError as exc:
            return exc
        return None


def _own() -> Values:
    return Values(
        os.sched_getaffinity(0) if sys.platform == "linux" else None,
        os.getpriority(os.PRIO_PROCESS, 0) if sys.platform == "linux" else None,
        signal.pthread_sigmask(signal.SIG_BLOCK, ()) if sys.platform != "win32" else None,
    )
