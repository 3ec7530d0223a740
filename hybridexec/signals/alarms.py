"""Alarms: who has set an alarm gets what its handler raises.

``signal.alarm`` and ``signal.setitimer`` bound what a step is about to do: on asyncio the handler, which CPython calls
on the main thread, raises right there.  Here that thread may be in another step by then, or in none.  So the detector
sees who sets an alarm, and what the handler raises on a thread that is not that step's comes up in the step (rule 7):
at its next instruction, or, if it is in a call, when that is over; CPython breaks calls off on the main thread alone.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..protocol.lwp import LWP

_OF_TIMERS = {
    getattr(signal, timer): getattr(signal, sent)
    for timer, sent in (("ITIMER_REAL", "SIGALRM"), ("ITIMER_VIRTUAL", "SIGVTALRM"), ("ITIMER_PROF", "SIGPROF"))
    if hasattr(signal, timer)
}


class Alarms:
    """The alarms that steps of one loop have set.  Their LWPs change it, the home asks."""

    def __init__(self) -> None:
        self._steps: dict[int, tuple[LWP, asyncio.Handle | None]] = {}

    def set_by_alarm(self, lwp: LWP) -> None:
        """The LWP's step calls ``signal.alarm``."""
        self._steps[signal.SIGALRM] = lwp, lwp.handle

    def set_by_timer(self, lwp: LWP, timer: Any) -> None:
        """The LWP's step calls ``signal.setitimer`` for this timer."""
        sent = _OF_TIMERS.get(timer) if isinstance(timer, int) else None
        if sent is not None:
            self._steps[sent] = lwp, lwp.handle

    def step_of(self, signum: int) -> LWP | None:
        """The LWP whose step has set the alarm that sends a signal, if that step is not over."""
        lwp, step = self._steps.get(signum, (None, None))
        return lwp if lwp is not None and lwp.handle is step else None

    def forget(self) -> None:
        """The loop has stopped."""
        self._steps.clear()
