"""Handler: one call of a signal handler, on the home."""

from __future__ import annotations

from typing import Any

from .lwp import LwpState


class Handler:
    """One call of a signal handler, on the home.

    Args:
        relied: whether the others rely on the home where it is interrupted.  In a step they do not, also when the
            handler's call has returned and the home waits for the loop.
        outer: the call of another handler, if that is interrupted: it has a place of its own to go back to.

    Attributes:
        call: what it blocks in, once the sampler has seen that.
        duty: what the home did for the loop when it was excused; None if it was not.
        had_step: whether it waited with a step then.
    """

    __slots__ = ("_place", "_since", "call", "duty", "had_step", "outer", "relied")

    def __init__(self, relied: bool, outer: Handler | None) -> None:
        self.relied = relied
        self.outer = outer
        self.call: Any = None
        self.duty: LwpState | None = None
        self.had_step = False
        self._place = (0, 0)  # the identity of the innermost frame, and the instruction
        self._since = 0.0

    def standing_since(self, frame: Any, now: float) -> float:
        """Since when it has stood where it stands.  The sampler asks."""
        place = (id(frame), frame.f_lasti)
        if place != self._place:
            self._place, self._since = place, now
        return self._since
