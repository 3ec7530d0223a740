"""Handling: a signal handler is the loop's Python code, so it runs where the home has the loop (rule 1, rule 2).

CPython calls signal handlers on the main thread, between any two instructions.  On asyncio that thread is the loop's,
so that nothing else of the loop runs meanwhile.  Here the main thread is the home, and a spare may carry the loop: a
handler that sets an event then would do so beside the step that waits for it.  Where its signal finds the home decides:

1. *The home holds the loop, in a step or between two*: it is called at once.  If the step's call is marked it is so no
   longer meanwhile, or the sampler might retake the loop in the middle of the handler.
2. *The home's step is blocked* (the signal has ended its system call, or it is in a ``blocking()`` region): the home
   *borrows* the loop.  It waits like a step that returns, but before all others, calls the handler, and leaves
   again.  To the detector the handler is a part of the step, but not of the call: that begins and ends once.
3. *The home has no step* (it polls, is parked, or is on its way), *or has one that waits for its turn*: the signal is
   noted, and the home *summoned*.  It queues as one that returns, and when it holds the loop it *catches up*: before
   anything else it calls what was noted.  Where it has no step the handler is one itself, and may block as one.
4. *The home is half way in this package's own code, and without the loop*: whoever it is about to wake may wait for it.
   The signal is noted, too; if a step goes on there, and blocks, the home is nudged (``home.py``), which is case 2.
5. *In uvloop's poll* the home has the loop.  If a method of a protocol was interrupted it is case 1, else case 3: the
   poll ends.

The step that holds the loop elsewhere may compute for long; on asyncio a handler would run between two of its
instructions.  So after 5 ms the sampler traps it as for preemption, and it *lends* the loop: it gets it back behind the
handler, before any other step.

**Nothing waits for ever.**  A step that is pinned, or in code that is never interrupted, lends nothing, nor does what
blocks in uvloop's poll; and each may wait for the handler.  So after 0.1 s the sampler *gives up*, and the handler is
called without the loop.  So it is where nobody can be nudged and the home is half way in a step.  Handlers that touch
nothing of the loop do not wait at all: ``default_int_handler``, asyncio's stand-in for those of ``add_signal_handler``,
and this package's own.

What a handler raises comes up where it always did (``shield.py``): in the step that was interrupted; or it is put off,
if it was called in the middle of this package's own code, which catching up is.

**A handler that blocks** is seen by the detector like a step: it is one, or interrupts one.  That leaves those that are
called without the loop while the home polls or waits.  There is no step then, but the others rely on the home: it is
the one that polls, or the next to be woken.  So the sampler looks at such a handler, too, and if it stands where it was
a threshold before, the home is *excused* until the handler is over (``carrying.py``).
"""

from __future__ import annotations

import enum
from asyncio import events
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from .clock import monotonic
from .detector import trap as traps
from .following.thread_locals import IN_DICTIONARY
from .lwp import LWP, RELIED_ON, LwpState, Region, StandIn

if TYPE_CHECKING:
    from .carrying import Carrying
    from .detector.calls import Call
    from .detector.trap import Trap

LAST_BOUND = 1.0
"""Seconds after which a signal handler is called without the loop, whatever keeps that, or the home from it: mostly a
machine that is busy.  (The sampler gives up sooner where a step keeps the loop that lends nothing.)"""


class Turn(enum.Enum):
    """Where a signal handler can be called."""

    HERE = "here"
    """At once."""
    MARKED = "marked"
    """At once; the call that it interrupts is to be marked again when it is over."""
    BORROWED = "borrowed"
    """Here, when the home has borrowed the loop for it."""
    LATER = "later"
    """When the home holds the loop."""


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

    # ---------------------------------------------------------------- with the loop

    def attend(self, call: Callable[[], None], *, half_way: bool, nudges: bool) -> None:
        """Signal handlers are due: have them called here, or when the home has the loop.

        Args:
            call: calls them.
            half_way: whether the signal has come in the middle of this package's own code.
            nudges: whether the home can be nudged.
        """
        carrying = self._carrying
        home = carrying.home
        if home is None:
            call()
            return
        # What the protocol does on the way is no part of the step.
        region, home.region = home.region, Region.OWN
        try:
            turn = carrying.turn_of(half_way=half_way)
            if turn is Turn.BORROWED:
                self._look()
            if turn is Turn.LATER and (nudges or home.state is not LwpState.BLOCKED):
                self.summon()
                return
            if home.state is LwpState.BLOCKED:
                trap = self._disarmed(home)
                if turn is Turn.BORROWED and carrying.borrow():
                    self._call_borrowed(home, call, region, trap)
                else:  # without the loop, for which no call of its may wait
                    try:
                        call()
                    finally:
                        self._arm_again(trap)
                return
        finally:
            home.region = region
        marked = home.call
        try:
            call()
        finally:
            if turn is Turn.MARKED:
                carrying.mark_again(home, marked)

    def summon(self) -> None:
        """Signal handlers wait for the home to have the loop."""
        self._carrying.summon()
        self._look()

    def caught_up(self) -> None:
        """None waits any more."""
        self._carrying.summoned = None

    def _call_borrowed(self, home: LWP, call: Callable[[], None], region: Region | None, trap: Trap | None) -> None:
        """In the middle of a call of the home's step, in this region and with this trap: leave the loop again."""
        carrying = self._carrying
        outer, running = home.call, events._get_running_loop()
        events._set_running_loop(carrying.reactions.loop)
        home.region = None
        try:
            call()
        finally:
            self._settle(home)
            home.call, home.region = outer, Region.OWN
            self._arm_again(trap)
            carrying.leave(home, LwpState.BLOCKED)
            if region is Region.AWAY:
                if IN_DICTIONARY:
                    home.wardrobe.part()
                events._set_running_loop(running)

    def with_loop(self, home: LWP, call: Callable[[], None]) -> None:
        """The home holds the loop, and has no step, or one that has just waited for that: call them first."""
        handle, outer, region = home.handle, home.call, home.region
        trap = self._disarmed(home)
        home.region = None
        if handle is None:
            home.handle = StandIn("<a signal handler>")
        try:
            call()
        finally:
            self._settle(home)
            if handle is None and home.alert:
                loop: Any = self._carrying.reactions.loop
                loop._after_step(home)
            home.handle, home.call, home.region = handle, outer, region
            self._arm_again(trap)

    def _settle(self, home: LWP) -> None:
        """Handlers are over; if no event has told that the call of one is, the home is still without the loop."""
        if not self._carrying.is_forked():
            trap = self._disarmed(home)
            self._carrying.reactions.resume(home, None if trap is None else trap.call)

    @staticmethod
    def _disarmed(home: LWP) -> Trap | None:
        """A trap of the home's step is for what follows its call, not for what interrupts that."""
        trap = home.trap
        if trap is not None:
            traps.disarm(trap)
        return trap

    @staticmethod
    def _arm_again(trap: Trap | None) -> None:
        if trap is not None and not trap.sprung:
            traps.arm(trap)

    # ---------------------------------------------------------------- each of them

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
