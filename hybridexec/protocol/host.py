"""Host: what the protocol needs of an event loop, split by who provides it.

``Poll`` is the engine's, ``Turns`` is ``loop/turns.py``, ``Luggage`` is ``following/following.py``, ``HomeSide`` is
``signals/home_side.py``, ``Voice`` is ``reactions/reporting.py``.  On a block and its return two of these methods are
called under the mutex: ``Luggage.detach`` and ``Luggage.attach``.  All else that a move depends on is in the record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

from .lwp import LWP


class Poll(Protocol):
    """How the loop waits for events."""

    def wait(self, timeout: float | None) -> Any:
        """Wait for events, for ``timeout`` seconds; None: forever.  Any LWP; the holder, if polls cannot be claimed."""


class Turns(Protocol):
    """How the loop runs what is ready."""

    def timeout(self) -> float | None:
        """Seconds until there is something to do: 0 if at once, None if nothing is known.  The holder asks."""

    def run(self, lwp: LWP, events: Any) -> bool:
        """Handle events and due timers and run what is ready; return whether the LWP still holds the loop."""

    def until(self, deadline: float) -> float | None:
        """The timeout of a poll that lasts until ``deadline``, in the loop's time."""

    def has_input(self) -> bool:
        """Whether a timer is due, or events may have come that nobody has polled for.  Any thread."""

    def break_poll(self) -> None:
        """End a poll that is under way, or the next one.  Any thread."""

    def fail(self, exc: BaseException) -> None:
        """The run has to end with an exception.  Any thread."""

    def orphaned(self, lwp: LWP) -> None:
        """The LWP's thread has ended by an exception: its steps are for the others.  Called under the mutex."""


class Luggage(Protocol):
    """What follows the loop from thread to thread."""

    def begin(self, lwp: LWP) -> None:
        """Prepare the calling thread, a new spare, to run the loop's code."""

    def detach(self, lwp: LWP, *, with_step: bool) -> None:
        """The LWP, which holds the loop, gives it up.  Called under the mutex, by whichever thread makes it do so.

        Args:
            lwp: the LWP.
            with_step: whether it is in a step, which continues without the loop.
        """

    def attach(self, lwp: LWP, *, with_step: bool) -> None:
        """The calling thread, an LWP, holds the loop.  Called under the mutex, last of all.

        Args:
            lwp: the LWP.
            with_step: whether it is in a step that has been without the loop.
        """

    def resumed(self) -> None:
        """The holder's own poll has ended: it has held the loop all the time."""

    def retires(self, lwp: LWP) -> None:
        """The LWP, which does not hold the loop, is about to end.  Called under the mutex."""


class HomeSide(Protocol):
    """What only the home can do."""

    def serve(self) -> None:
        """Do what others have asked for.  Called on the home, without the mutex; it need not hold the loop."""

    def catch_up(self, home: LWP) -> None:
        """Call the signal handlers that have waited for the loop.  Called on the home, which holds it."""

    def passes_on(self, interrupt: BaseException) -> bool:
        """Whether a blocked step raises what a signal handler has raised; if not, the home does, out of the run.

        Called on the home, which holds the loop and has no step.
        """

    def remind(self) -> None:
        """Nudge the home: its step has something to raise, or a handler to call.  Called by the sampler."""

    def heed(self) -> None:
        """Nudge a blocked home if signals have come that nobody has read of.  Called by the sampler."""


class Voice(Protocol):
    """What is said of LWPs: upcalls, and the log."""

    def started(self, lwp: LWP) -> None:
        """An LWP's thread runs."""

    def retired(self, lwp: LWP) -> None:
        """An LWP has ended."""

    def exhausted(self, blocked: list[LWP], home: LWP | None) -> None:
        """All LWPs that there may be are blocked."""

    def refused(self, alive: int) -> None:
        """The system has no thread for another LWP beside so many."""

    def granted(self) -> None:
        """The system has a thread."""

    def repaired(self) -> None:
        """Nobody came for the loop; now somebody does."""

    def closing(self, waits_for: list[LWP], *, left: bool) -> None:
        """The loop is closed, and waits for these LWPs, or has ``left`` them behind."""

    def closed(self) -> None:
        """The loop is closed."""

    def forked(self, exc: BaseException) -> None:
        """A forked child ends, since its only thread was a spare."""


@dataclasses.dataclass
class Host:
    """The event loop that the protocol carries."""

    poll: Poll
    turns: Turns
    luggage: Luggage
    home_side: HomeSide
    voice: Voice
    equip: Callable[[LWP], None]
    """Fills the pockets of a new LWP.  Called under the mutex, before anything has changed."""
