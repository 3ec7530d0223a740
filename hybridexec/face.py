"""Face: what the protocol of ``carrying.py`` needs of the event loop, and nothing more."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

from .lwp import LWP
from .upcalls import UpcallKind


class Face(Protocol):
    """What the protocol needs of the event loop."""

    @property
    def claimable(self) -> bool:
        """Whether others may take the loop while an LWP polls."""

    def timeout(self) -> float | None:
        """Seconds until there is something to do: 0 if at once, None if nothing is known.  The holder asks."""

    def select(self, timeout: float | None) -> Any:
        """Wait for events."""

    def turn(self, lwp: LWP, events: Any) -> bool:
        """Handle events and timers and run what is ready; whether the LWP still holds the loop afterwards."""

    def unfinished(self) -> bool:
        """Whether a batch is under way, and steps of it are still to be run."""

    def has_work(self) -> bool:
        """Whether something is ready to run."""

    def next_timer(self) -> float:
        """When the earliest timer is due, in the loop's time; infinity if there is none.  Anybody may ask."""

    def has_input(self) -> bool:
        """Whether a timer is due, or events may have come that nobody has polled for."""

    def poke(self) -> None:
        """End somebody's poll."""

    def stopping(self) -> bool:
        """Whether the loop shall stop."""

    def until(self, deadline: float) -> float | None:
        """The timeout of a poll that lasts until ``deadline``, a value of :meth:`next_timer`."""

    def taken(self, lwp: LWP) -> None:
        """The LWP holds the loop from now on.  Called under the mutex."""

    def gives(self, lwp: LWP) -> None:
        """The LWP, which holds the loop, is about to give it up.  Called under the mutex, by whoever makes it do so."""

    def follow(self, lwp: LWP) -> None:
        """The calling thread, an LWP, has taken the loop, or was granted it.  Called under the mutex, last of all."""

    def left(self, lwp: LWP) -> None:
        """The LWP's step is without the loop from now on.  Called under the mutex."""

    def returned(self, lwp: LWP) -> None:
        """The LWP's step has the loop again.  Called under the mutex."""

    def failed(self, exc: BaseException) -> None:
        """The run has to end with an exception.  Any thread."""

    def orphaned(self, lwp: LWP) -> None:
        """The LWP's thread has ended by an exception: what was its own is for the others.  Called under the mutex."""

    def retires(self, lwp: LWP) -> None:
        """The LWP, which does not hold the loop, is about to end.  Called under the mutex."""

    def started(self, lwp: LWP) -> None:
        """Make the calling thread, a new LWP, ready to run the loop's code."""

    def serve(self) -> None:
        """Do what only the home can do, if somebody has asked for it.  Called on the home, without the mutex."""

    def catch_up(self, lwp: LWP) -> None:
        """Call the signal handlers that have waited for the loop.  Called on the home, which holds it."""

    def passes_on(self, interrupt: BaseException) -> bool:
        """Whether a blocked step raises what a signal handler has raised; if not, the home does, out of the run.

        The home, which holds the loop and has no step, asks.
        """

    def remind(self) -> None:
        """See that the home's step raises what a signal handler has raised in the middle of the protocol."""

    def heed(self) -> None:
        """See that the home, which is blocked, handles signals that nobody has read of.  The sampler asks."""

    def describe(self, lwp: LWP) -> str:
        """What the LWP is blocked in, for the log."""

    def places(self, lwps: list[LWP]) -> Counter[str]:
        """What LWPs are blocked in, and how many of them in each, for the log."""

    def stuck(self, lwps: list[LWP]) -> str:
        """Why nothing may go on, if that is known; for the log."""

    def notice(self, kind: UpcallKind, lwp: LWP) -> None:
        """Emit an upcall of the pool."""
