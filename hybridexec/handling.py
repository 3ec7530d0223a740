"""Handling: signal handlers that block where the home has no step.

CPython calls a signal handler on the main thread, wherever that is.  In a step its calls are the step's.  While the
home polls, or waits for the loop, there is no step, and the detector has no event of it; but the others rely on the
home: it is the one that polls, or the next to be woken.  So the sampler looks at a handler, too, and if it stands where
it was a threshold before, the home is *excused* until the handler is over (``carrying.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from .clock import monotonic
from .lwp import RELIED_ON, LwpState

if TYPE_CHECKING:
    from .carrying import Carrying
    from .detector.calls import Call


class Handler:
    """One call of a signal handler, on the home.

    Args:
        relied: whether the others rely on the home where it is interrupted.  In a step they do not, also when the
            handler's call is over and the home waits for the loop.
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
        self.call: Call | None = None
        self.duty: LwpState | None = None
        self.had_step = False
        self._place = (0, 0)  # the identity of the innermost frame, and the instruction
        self._since = 0.0

    def standing_since(self, frame: FrameType, now: float) -> float:
        """Since when it has stood where it stands.  The sampler asks."""
        place = (id(frame), frame.f_lasti)
        if place != self._place:
            self._place, self._since = place, now
        return self._since


class Handling:
    """The signal handlers of one loop's home, which calls this.

    Args:
        carrying: who carries the loop.
        look: wakes the sampler.
    """

    def __init__(self, carrying: Carrying, look: Callable[[], None]) -> None:
        self._carrying = carrying
        self._look = look

    def begin(self) -> Handler:
        """A handler is about to be called."""
        carrying = self._carrying
        home = carrying.home
        handler = carrying.handler = Handler(home is not None and home.state in RELIED_ON, carrying.handler)
        self._look()
        return handler

    def end(self, handler: Handler) -> None:
        """It is over: the home is where it was, and so is what was told of it."""
        home = self._carrying.home
        ended = monotonic()  # what follows is waiting for the loop
        call = self._carrying.report_back(handler)
        if call is not None and home is not None:
            self._carrying.reactions.telling.over(home, call, ended - call.began)
