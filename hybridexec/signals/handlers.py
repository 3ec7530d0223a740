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
   The signal is noted, too; if a step goes on there, and blocks, the home is nudged (``nudge.py``), which is case 2.
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

**A handler that blocks** is seen by the detector like a step: it is one, or interrupts one.  Where a callback of the
detector calls it (a step that has just got the loop back), the interpreter's events are turned on for it.  That leaves
those that are called without the loop while the home polls or waits.  There is no step then, but the others rely on the
home: it is the one that polls, or the next to be woken.  So the sampler looks at such a handler, too, and if it stands
where it was a threshold before, the home is *excused* until the handler is over (``protocol/excused.py``).
"""

from __future__ import annotations

from asyncio import events
from collections.abc import Callable

from ..detector import trap as traps
from ..detector.trap import Trap
from ..following.thread_locals import IN_DICTIONARY
from ..platform.clock import monotonic
from ..protocol import borrowing
from ..protocol.borrowing import Turn
from ..protocol.carrying import Carrying
from ..protocol.excused import report_back
from ..protocol.handler import Handler
from ..protocol.lwp import LWP, RELIED_ON, LwpState, Region, StandIn


class Handling:
    """The signal handlers of one loop's home, which calls this.

    Args:
        carrying: who carries the loop.
        look: wakes the sampler.
        after_step: called when a handler that was a step has ended, and has to be looked at.
    """

    def __init__(self, carrying: Carrying, look: Callable[[], None], after_step: Callable[[LWP], object]) -> None:
        self._carrying = carrying
        self._look = look
        self._after_step = after_step

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
            turn = borrowing.turn_of(carrying, half_way=half_way)
            if turn is Turn.BORROWED:
                self._look()
            if turn is Turn.LATER and (nudges or home.state is not LwpState.BLOCKED):
                self.summon()
                return
            if home.state is LwpState.BLOCKED:
                trap = self._disarmed(home)
                try:
                    if turn is Turn.BORROWED:
                        self._borrow(home, call, region)
                    else:  # without the loop, for which no call of its may wait
                        call()
                finally:
                    self._arm_again(trap)
                return
        finally:
            home.region = region
        marked = home.watch.call
        try:
            call()
        finally:
            if turn is Turn.MARKED:
                borrowing.mark_again(carrying, home, home.watch.in_call(marked))

    def summon(self) -> None:
        """Signal handlers wait for the home to have the loop."""
        borrowing.summon(self._carrying)
        self._look()

    def caught_up(self) -> None:
        """None waits any more."""
        self._carrying.summoned = None

    def _borrow(self, home: LWP, call: Callable[[], None], region: Region | None) -> None:
        """In the middle of a call of the home's step, in this region: with the loop, if it can be had."""
        carrying = self._carrying
        outer, running = home.watch.call, events._get_running_loop()
        try:
            if borrowing.borrow(carrying):
                self._call_borrowed(home, call)
            else:
                call()
        finally:
            home.watch.call, home.region = outer, Region.OWN
            try:
                borrowing.give_back(carrying, home)
            except BaseException:
                borrowing.give_back(carrying, home)  # what was broken off is done once more
                raise
            finally:
                if region is Region.AWAY and IN_DICTIONARY:
                    home.luggage.wardrobe.part()
                events._set_running_loop(running)

    def _call_borrowed(self, home: LWP, call: Callable[[], None]) -> None:
        events._set_running_loop(home.watch.reactions.loop)
        home.region = None
        try:
            call()
        finally:
            self._settle(home)

    def with_loop(self, home: LWP, call: Callable[[], None]) -> None:
        """The home holds the loop, and has no step, or one that has just waited for that: call them first."""
        handle, outer, region = home.handle, home.watch.call, home.region
        trap = self._disarmed(home)
        try:
            home.region = None
            if handle is None:
                home.handle = StandIn("<a signal handler>")
            try:
                call()
            finally:
                self._settle(home)
                if handle is None and home.slow_exit:
                    self._after_step(home)
        finally:
            home.handle, home.watch.call, home.region = handle, outer, region
            self._arm_again(trap)

    def _settle(self, home: LWP) -> None:
        """Handlers are over; if no event has told that the call of one is, the home is still without the loop."""
        if not self._carrying.is_forked():
            trap = self._disarmed(home)
            home.watch.reactions.resume(home, None if trap is None else trap.call)

    @staticmethod
    def _disarmed(home: LWP) -> Trap | None:
        """A trap of the home's step is for what follows its call, not for what interrupts that."""
        trap: Trap | None = home.watch.trap
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
        try:
            self._look()
        except BaseException:
            carrying.handler = handler.outer  # it is not called, and nobody tells its end
            raise
        return handler

    def end(self, handler: Handler) -> None:
        """It is over: the home is where it was, and so is what was told of it."""
        try:
            self._end(handler)
        except BaseException:
            self._end(handler)  # what was broken off is done once more: others rely on the home again
            raise

    def _end(self, handler: Handler) -> None:
        home = self._carrying.home
        ended = monotonic()  # what follows is waiting for the loop
        call = report_back(self._carrying, handler)
        if call is not None and home is not None:
            home.watch.reactions.reporting.over(home, call, ended - call.began)
