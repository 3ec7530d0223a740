"""Greenlets: a loop stays with a step that no other thread could go on without.

A greenlet can be switched to by its own thread alone.  Where a task of the loop switches, the task is bound to its LWP
(``affinity.py``), and the loop may leave it.  Three more shapes there are, in which the loop itself must not move:

* *The run* is in another greenlet than its thread's own, and the program is in that one: its callbacks switch to the
  program, and back (Playwright's synchronous API).  Such a loop stays for the whole run, and the log says so.
* *A callback that is no task's* has switched to a greenlet, which is still alive: a callback may do so again.
* *A step stands in another greenlet* than the one in which its LWP carries the loop, and is not a bound task's.  The
  frames tell that: those of a greenlet end where it began.

Nothing of it is looked at while ``greenlet`` is not imported.
"""

from __future__ import annotations

import logging
import sys
import weakref
from types import FrameType
from typing import Any

from ..observing.log import say
from ..protocol.carrying import Carrying

_CARRY = Carrying.carry.__code__
GREENLET = "greenlet"
"""The module's name."""

_APART = (
    "the loop runs in a greenlet that is not its thread's main one, and other threads cannot switch to that: "
    "it stays on this thread, as asyncio's does"
)


class Greenlets:
    """What one loop's greenlets keep it from.  The holder changes it, and the sampler asks."""

    def __init__(self) -> None:
        self.apart = False
        """Whether the run is in another greenlet than its thread's own."""
        self._told = False
        self._entered: tuple[weakref.ref[Any], ...] = ()  # by callbacks that are no task's

    def begin(self) -> None:
        """The calling thread, in the greenlet that is current, begins to run the loop."""
        module = sys.modules.get(GREENLET)
        self.apart = module is not None and module.getcurrent().parent is not None
        if self.apart and not self._told:
            self._told = True
            say(logging.WARNING, _APART)

    def entered(self, greenlet: Any) -> None:
        """A callback that is no task's switches to a greenlet."""
        known = [reference for reference in self._entered if (one := reference()) is not None and not one.dead]
        if all(reference() is not greenlet for reference in known):
            known.append(weakref.ref(greenlet))
        self._entered = tuple(known)

    def tie(self) -> bool:
        """Whether the loop must stay where it is, whoever blocks."""
        return self.apart or any(
            (greenlet := reference()) is not None and not greenlet.dead for reference in self._entered
        )


def elsewhere(frame: FrameType | None) -> bool:
    """Whether a step stands in another greenlet than the one in which its LWP carries the loop.

    Args:
        frame: the innermost one of the step; None if that is not known.
    """
    if frame is None:
        return False
    while frame is not None and frame.f_code is not _CARRY:
        frame = frame.f_back
    return frame is None
