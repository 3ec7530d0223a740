"""Attributes: what a step asks of the system for "this thread" holds for the loop, on whichever thread that is.

CPU affinity, niceness (on Linux that of a thread, whatever POSIX says) and the signal mask belong to an OS thread, and
a new one has them from the thread that starts it.  So a spare that is started later has what a step has asked for, and
what is left is the spares that there are already: the detector sees the call, its outcome is noted, and an LWP that
takes the loop for the first time since then is given the same.  CPython itself keeps one such thing for each thread,
which a new one does not inherit: the depth to which it notes where coroutines come from.  In debug mode that depth is
the loop's own business.

What C code sets by itself (``prctl``, ``psutil``) is not seen.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..protocol.lwp import LWP


class Values(NamedTuple):
    """What a thread has; None is what there is not, or for processes only; and the depth that no step has set."""

    affinity: set[int] | None
    priority: int | None
    mask: set[int | signal.Signals] | None
    depth: int | None


class Attributes:
    """Those of one loop.  Only its holder changes them."""

    def __init__(self) -> None:
        self.values: Values | None = None

    def changed(self, lwp: LWP) -> None:
        """A step has asked for something, on the calling thread."""
        known = self.values
        depth = None if known is None else known.depth
        if lwp.luggage.tracking is None:
            depth = sys.get_coroutine_origin_tracking_depth()
        self.values = lwp.luggage.attributes = _own(depth)

    def taken(self, lwp: LWP) -> OSError | None:
        """The calling thread, an LWP, holds the loop and has other values.  Returns what the system says if it refuses:
        what was allowed elsewhere may not be here, if the program has lost a privilege since."""
        wanted = self.values
        if wanted is None:
            return None
        lwp.luggage.attributes = wanted
        try:
            if wanted.depth is not None and lwp.luggage.tracking is None:
                sys.set_coroutine_origin_tracking_depth(wanted.depth)
            mine = _own(None)
            if wanted.mask is not None and wanted.mask != mine.mask:
                signal.pthread_sigmask(signal.SIG_SETMASK, wanted.mask)
            if wanted.affinity is not None and wanted.affinity != mine.affinity:
                os.sched_setaffinity(0, wanted.affinity)
            if wanted.priority is not None and wanted.priority != mine.priority:
                os.setpriority(os.PRIO_PROCESS, 0, wanted.priority)
        except OSError as exc:
            return exc
        return None


def _own(depth: int | None) -> Values:
    return Values(
        os.sched_getaffinity(0) if sys.platform == "linux" else None,
        os.getpriority(os.PRIO_PROCESS, 0) if sys.platform == "linux" else None,
        signal.pthread_sigmask(signal.SIG_BLOCK, ()) if sys.platform != "win32" else None,
        depth,
    )
