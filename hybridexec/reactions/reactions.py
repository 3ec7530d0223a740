"""Reactions: what a loop does about what the detector sees.

The detector knows LWPs and calls; this file knows the loop's mode, its pins, whether somebody debugs, and turns a
detected block into a handoff, a report, or an exception.  What is said of it is in ``reporting.py``.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Callable, Container
from types import CodeType, FrameType
from typing import Any

from ..config import Config
from ..detector import trap as traps
from ..detector.calls import Call, Site, excluded
from ..detector.catalogue import Binds
from ..detector.sampler import sampler
from ..detector.stack import DEBUGGERS, FRAMES, are_left, in_debugger, interruptible, reserve
from ..detector.trap import Trap
from ..following import rlocks
from ..following.attributes import Attributes
from ..following.connections import Connections, in_use
from ..following.tasks import task_of
from ..observing.upcalls import Detection, Emitter
from ..platform.clock import monotonic
from ..protocol import borrowing, order
from ..protocol.carrying import Carrying
from ..protocol.excused import excuse
from ..protocol.handler import Handler
from ..protocol.lwp import IN_POLL, LWP, LwpState, Region
from ..signals.alarms import Alarms
from ..signals.shield import Shield
from .affinity import Affinity
from .greenlets import GREENLET
from .pins import Pins
from .reporting import Reporting

_CALLS_HANDLERS = frozenset({Shield._call.__code__})


class Reactions:
    """What one loop does about blocks.

    Args:
        loop: the loop.
        carrying: who carries it.
        emitter: where upcalls go.
        affinity: who notes what binds a user thread to its LWP.
        config: the loop's configuration.
        runner_codes: the code whose frames call steps.
    """

    def __init__(
        self,
        loop: Any,
        carrying: Carrying,
        emitter: Emitter,
        affinity: Affinity,
        config: Config,
        runner_codes: frozenset[CodeType],
    ) -> None:
        self.loop = loop
        self.runner_codes = runner_codes
        self.mode = config.mode
        self.threshold = config.threshold
        self.preempt = config.preempt
        self._hold_in_debugger = config.hold_in_debugger
        self.carrying = carrying
        self.reporting = Reporting(loop, carrying, emitter, runner_codes)
        self.tally = emitter.tally
        self.emitter = emitter
        self.sampler = sampler
        self.pins = Pins()
        self.affinity = affinity
        self.connections = Connections()
        self.attributes = Attributes()
        self.alarms = Alarms()
        self.judge()

    def adopt(self, config: Config) -> None:
        """Take over what may change between two runs."""
        self.mode, self.threshold, self.preempt = config.mode, config.threshold, config.preempt
        self.judge()

    def judge(self) -> None:
        """Note, for the compiled core, whether the loop may leave a step without a look at what is kept here.

        It may while the mode is "handoff", no instrument hears of blocks, no loop is nested, and none was ever pinned.
        """
        moves = self.mode == "handoff" and not self.affinity.nested
        self.carrying.leaves_plainly = moves and not self.emitter.hears_of_blocks
        if self.pins.used:  # looked at last: a step may say so meanwhile
            self.carrying.leaves_plainly = False

    def loosen(self, loop: Any) -> None:
        """The loop is closed: refer to it by this from now on."""
        self.loop = loop
        self.reporting.loosen(loop)

    # ---------------------------------------------------------------- declared calls, on the LWP itself

    def call(self, lwp: LWP, call: Call, sure: bool) -> None:
        """A step begins a call that blocks (``sure``), or may block; if its last one was slow, that is suspected."""
        if lwp.state is LwpState.BLOCKED:
            # C code that blocks has called back into Python: no code runs without the loop.
            self.resume(lwp)
        call.outer = lwp.watch.call
        try:
            self._begin(lwp, call, sure)
        except BaseException:
            # The mode is "raise", or something of ours has failed: the call is not made.
            lwp.watch.call = call.outer
            self.carrying.hold_again(lwp)
            raise
        if lwp.interrupt is not None:
            self.over(lwp, call, raised=False)  # it is not made, either

    def leaves_plainly(self, lwp: LWP) -> bool:
        """Whether the loop leaves a step whose call is sure to block, and nobody is told.

        The compiled core asks, where it cannot tell by itself (``judge``) without a look at the stack.
        """
        return (
            self.mode == "handoff"
            and lwp.handle is not IN_POLL
            and self.sampler.refused is None
            and not self._is_tied(lwp, None)
            and not self._debugs(None, self.runner_codes)
            and not self.emitter.hears_of_blocks
        )

    def _begin(self, lwp: LWP, call: Call, sure: bool) -> None:
        lwp.watch.call = call
        suspected = call.site.slow and not call.is_brief and self.mode == "handoff"
        acts = (sure or suspected) and self._acts(lwp, None)
        leaves = acts and lwp.handle is not IN_POLL and (self.sampler.refused is None or not self.sampler.absent())
        if not sure and not leaves:
            if call.is_brief and self.mode != "handoff":
                call.loop_stays = True  # nobody is blamed for it
            elif lwp.state is LwpState.RUNNING:
                reserve(FRAMES)
                self.carrying.mark(lwp)
                if self.sampler.refused is not None:
                    self.loop._send_queued()  # nobody would see that it lasts
        elif acts and self.mode == "raise":
            self._blocked(lwp, call)
            raise _for_step(lwp, self.reporting.refusal(lwp, call, ""))
        elif leaves:
            self._leave(lwp, call)
        else:
            call.loop_stays = True
            self.loop._send_queued()
            self._blocked(lwp, call)

    def over(self, lwp: LWP, call: Call, *, raised: bool) -> None:
        """A declared call is over."""
        try:
            if call.binds is Binds.RLOCK_RESTORED and not raised:
                rlocks.restored(lwp, call.argument)
            lwp.watch.call = call.outer
            if call.waiters is not None:
                self._tell(call)
            trap = lwp.watch.trap
            if trap is not None and trap.call is call:
                traps.disarm(trap)
        except BaseException:
            lwp.watch.call = call.outer
            self.carrying.hold_again(lwp)
            self._tell(call)
            raise
        self.resume(lwp, call)
        if call.binds is Binds.ATTRIBUTES:
            self.attributes.changed(lwp)
        late = call.reported and self.mode == "raise" and call.detection is Detection.DECLARED and not raised
        if late and self._may_leave(lwp, None):
            raise _for_step(lwp, self.reporting.refusal(lwp, call, ", found when it was under way"))
        if lwp.interrupt is not None and not raised:
            self.interrupt(lwp)

    def enter(self, lwp: LWP, call: Call) -> bool:
        """``with blocking():`` begins.  Returns whether its body runs without the loop.

        Mode "raise" hands off too: who says that a call blocks has done all there is to do.
        """
        reserve(FRAMES)  # before anything has changed: what undoes that needs them, too
        call.outer = lwp.watch.call
        lwp.watch.call = call
        try:
            stays = self.mode == "observe" or lwp.handle is IN_POLL or self._is_tied(lwp, None)
            if stays or (self.sampler.refused is not None and self.sampler.absent()):
                lwp.region = Region.HERE
                lwp.slow_exit = True  # there may be an await in it
                self.loop._send_queued()
                self._blocked(lwp, call)
                return False
            lwp.region = Region.AWAY
            if self.affinity.rlocks.held:
                self.affinity.rlocks.take_along(lwp, task_of(lwp))
            carrying = self.carrying
            left = carrying.leave(lwp, LwpState.BLOCKED)
            if left and len(carrying.parked) + len(carrying.pollers) < carrying.spare_lwps:
                carrying.replenish()
            call.reported = True
            self.reporting.begun(lwp, call)  # without the loop: an instrument that blocks does not hold it up
            if lwp.interrupt is not None:
                self.interrupt(lwp)
        except BaseException:
            lwp.region = None
            lwp.watch.call = call.outer
            self.resume(lwp, call)
            raise
        return True

    def resume(self, lwp: LWP, call: Call | None = None) -> None:
        """Hold the loop again; then say how long the block took."""
        # What the protocol and the instruments do on the way is no part of the step: no call of theirs is one of it.
        region = lwp.region
        try:
            lwp.region = Region.OWN
            ended = monotonic()  # what follows is waiting for its turn
            told = call is not None and call.reported
            if call is not None and told:  # before it holds the loop: as in enter()
                self.reporting.over(lwp, call, ended - call.began)
            self.carrying.rejoin(lwp)
            if call is not None:
                call.site.slow = ended - call.began >= self.threshold
                if call.reported and not told:  # the sampler was faster
                    self.reporting.over(lwp, call, ended - call.began)
        except BaseException:
            self.carrying.hold_again(lwp)
            raise
        finally:
            lwp.region = region

    def step_over(self, lwp: LWP) -> None:
        """A step is over: whatever it was in is over too."""
        call, trap = lwp.watch.call, lwp.watch.trap
        lwp.watch.call = None
        self.tell_all(call)
        lwp.region = None
        if trap is not None:
            call = trap.call or call
            traps.disarm(trap)
        self.resume(lwp, call)

    def stranded(self, lwp: LWP) -> None:
        """A step is about to go on with an exception, and is still without the loop."""
        try:
            call, lwp.watch.call = lwp.watch.call, None
            self.tell_all(call)
        except BaseException:
            self.carrying.hold_again(lwp)
            raise
        self.resume(lwp, call)

    @staticmethod
    def interrupt(lwp: LWP) -> None:
        """Raise what a signal handler raised while the step waited for the loop."""
        if lwp.interrupt is not None:
            interrupt, lwp.interrupt = lwp.interrupt, None
            if interrupt is not None:  # the home may have taken it back
                raise _for_step(lwp, interrupt)

    def handle(self, handler: Callable[[int, FrameType | None], object], signum: int, frame: FrameType | None) -> None:
        """Call a signal's handler, on the home.  What that of an alarm raises comes up in the step that has set it."""
        lwp, home = self.alarms.step_of(signum), self.carrying.home
        if lwp is None or home is None or lwp is home:
            handler(signum, frame)
            return
        region, home.region = home.region, Region.OWN  # what it raises is not to wait for the home's turn
        try:
            handler(signum, frame)
        except BaseException as exc:
            if not self._strike(lwp, exc):
                raise
        finally:
            home.region = region

    def _strike(self, lwp: LWP, exc: BaseException) -> bool:
        """Have an exception come up in the LWP's step.  Returns False if that cannot be."""
        step, frame = lwp.handle, lwp.watch.frame()
        if step is None or frame is None or lwp.interrupt is not None:
            return False
        lwp.interrupt = exc
        if lwp.state in (LwpState.RUNNING, LwpState.MARKED):  # else it looks as soon as its call is over
            traps.arm(Trap(lwp, step, (frame.f_code,), None))
        return True

    def binds(self, lwp: LWP, binds: Binds, argument: Any, site: Site) -> None:
        """A step calls something that ties it to its LWP."""
        if binds is Binds.ALARM:
            self.alarms.set_by_alarm(lwp)
        elif binds is Binds.TIMER:
            self.alarms.set_by_timer(lwp, argument)
        elif binds is not Binds.SQLITE:
            self.affinity.noticed(lwp, binds, argument)
        else:
            connection = self.connections.used(argument)
            if connection is not None and self.carrying.detached:
                self._await_use(lwp, connection, site)

    def _await_use(self, lwp: LWP, connection: sqlite3.Connection, site: Site) -> None:
        """Wait until no other step is in the middle of using a connection: like any call that blocks."""
        while True:
            with self.carrying.mutex:
                bell = in_use(self.carrying.detached - {lwp}, connection)
            if bell is None:
                return
            waits = Call(site, "sqlite3.Connection, in use", connection, Detection.DECLARED)
            self.call(lwp, waits, True)
            try:
                bell.wait()
            finally:
                self.over(lwp, waits, raised=True)

    def _tell(self, call: Call) -> None:
        """A call is over: tell those who wait for that."""
        with self.carrying.mutex:
            waiting, call.waiters = call.waiters, None
        for bell in waiting or ():
            bell.ring()

    def tell_all(self, call: Call | None) -> None:
        """A call is over, and all that it is in."""
        while call is not None:
            self._tell(call)
            call = call.outer

    # ---------------------------------------------------------------- the sampler's notices

    def lasts(self) -> None:
        """A step lasts, and has the loop: what was written does not wait for its end."""
        self.loop._send_queued()

    def overdue(self, lwp: LWP, call: Call, frame: FrameType | None) -> None:
        """A marked call has lasted for the threshold."""
        if self.mode == "handoff" and self._may_leave(lwp, frame):
            trap = self._trap_callbacks(lwp, call) if call.may_call_back else None
            if trap is not None and (frame is None or lwp.watch.frame() is not frame):
                traps.disarm(trap)  # it has called back already
                return
            left = False
            try:
                left = self._retake(
                    lwp,
                    call,
                    lambda: (
                        lwp.state is LwpState.MARKED
                        and lwp.watch.call is call
                        and (trap is None or (lwp.watch.trap is trap and not trap.sprung))
                    ),
                )
            finally:
                if trap is not None and not left and lwp not in self.carrying.detached:
                    traps.disarm(trap)
        else:
            self.reporting.begun(lwp, call)
            with self.carrying.mutex:
                call.reported = lwp.state in (LwpState.MARKED, LwpState.POLLING) and lwp.watch.call is call
                if call.reported:
                    call.loop_stays = True
                    if lwp.state is LwpState.MARKED:
                        lwp.state = LwpState.RUNNING
            if not call.reported:
                self.reporting.over(lwp, call, monotonic() - call.began)

    def discovered(self, trap: Trap, frame: FrameType | None) -> bool:
        """A trapped step does stand in a call.  Returns whether the trap is needed any longer."""
        lwp, call = trap.lwp, trap.call
        assert call is not None
        if self.mode == "handoff" and self._may_leave(lwp, frame) and are_left(FRAMES, frame):
            return self._retake(
                lwp,
                call,
                lambda: lwp.state in (LwpState.RUNNING, LwpState.MARKED) and lwp.watch.trap is trap and not trap.sprung,
            )
        self.reporting.begun(lwp, call)
        with self.carrying.mutex:
            call.reported = lwp.watch.trap is trap and not trap.sprung
        if not call.reported:
            self.reporting.over(lwp, call, monotonic() - call.began)
        return call.reported

    def handler_overdue(self, home: LWP, handler: Handler, call: Call, frame: FrameType) -> None:
        """A signal handler of the home's blocks.  In a step, it is the step that blocks."""
        if home.handle is IN_POLL:
            return
        self.reporting.begun(home, call)
        ties = self.affinity.greenlets.tie()
        moves = self.mode == "handoff" and not ties and not self._debugs(frame, _CALLS_HANDLERS)
        if not excuse(self.carrying, handler, call, moves=moves):
            self.reporting.over(home, call, monotonic() - call.began)

    def held_gil(self, lwp: LWP, call: Call, duration: float) -> None:
        """Nothing in the process could run for so long."""
        self.reporting.over(lwp, call, duration)

    def may_preempt(self, lwp: LWP, frame: FrameType) -> bool:
        """Whether a step may be interrupted where it stands."""
        if self.mode != "handoff" or not interruptible(frame, self.runner_codes):
            return False
        if isinstance(getattr(lwp.handle, "owner", None), asyncio.BaseTransport):
            return False  # a transport has called a protocol; one that is compiled has no frame
        return self._may_leave(lwp, frame)

    # ---------------------------------------------------------------- traps, on the LWP itself

    def trapped(self, lwp: LWP, trap: Trap, code: CodeType) -> None:
        """A trapped thread goes on: not before it holds the loop."""
        if trap.call is None:
            self._preempted(lwp, trap, code)
            return
        call = trap.call
        try:
            with self.carrying.mutex:
                trap.sprung = True
                away = lwp in self.carrying.detached
            if away:
                self.resume(lwp, call)
            elif call.reported:
                self.reporting.over(lwp, call, monotonic() - call.began)
            traps.disarm(trap)
        except BaseException:
            self.carrying.hold_again(lwp)
            raise
        reported, call.reported = call.reported, False  # told once, also where the call's own end is an event
        if reported and self.mode == "raise":
            raise _for_step(lwp, self.reporting.refusal(lwp, call, ", found when it was under way"))
        self.interrupt(lwp)

    def _preempted(self, lwp: LWP, trap: Trap, code: CodeType) -> None:
        if lwp.handle is trap.step and lwp.interrupt is not None and not excluded(code):
            traps.disarm(trap)
            self.interrupt(lwp)
        if lwp.handle is trap.step and lwp.state is LwpState.RUNNING:
            frame: FrameType | None = sys._getframe()
            while frame is not None and frame.f_code is not code:
                frame = frame.f_back
            if not interruptible(frame, self.runner_codes):
                return  # not here; the trap stays
            traps.disarm(trap)
            if self.carrying.summoned is not None and self._may_leave(lwp, frame):
                self._lend(lwp)
            elif self._may_leave(lwp, frame) and order.is_wanted_by_others(self.carrying, lwp):
                self.reporting.preempted(lwp, code)
                try:
                    self.carrying.leave(lwp, LwpState.PREEMPTED)
                except BaseException:
                    self.carrying.hold_again(lwp)
                    raise
                self.resume(lwp)
                lwp.watch.began = monotonic()
                self.interrupt(lwp)
            return
        traps.disarm(trap)

    def _lend(self, lwp: LWP) -> None:
        """Have the home call its signal handlers in the middle of the LWP's step."""
        region, lwp.region = lwp.region, Region.OWN
        try:
            borrowing.lend(self.carrying, lwp)
        except BaseException:
            self.carrying.hold_again(lwp)
            raise
        finally:
            lwp.region = region
        self.interrupt(lwp)

    # ---------------------------------------------------------------- inside

    def moves(self, lwp: LWP, frame: FrameType | None) -> bool:
        """Whether the loop moves away from a block of the LWP's step."""
        return self.mode == "handoff" and self._may_leave(lwp, frame)

    def may_suspend(self, lwp: LWP) -> bool:
        """Whether the LWP's step, which asks, can wait for another step of the loop."""
        return self._may_leave(lwp, None)

    def _may_leave(self, lwp: LWP, frame: FrameType | None) -> bool:
        """Whether the loop may move away from the LWP's step.

        Args:
            lwp: the LWP.
            frame: the innermost frame of its step; None: the calling code is part of it.
        """
        return lwp.handle is not IN_POLL and self._acts(lwp, frame)

    def _acts(self, lwp: LWP, frame: FrameType | None) -> bool:
        """Whether anything but a report is done about a block of the LWP's step."""
        return self.mode != "observe" and not self._is_tied(lwp, frame) and not self._debugs(frame, self.runner_codes)

    def _is_tied(self, lwp: LWP, frame: FrameType | None) -> bool:
        """Whether the loop must stay with the LWP's step: it is pinned, or no other thread could continue it."""
        pins, affinity = self.pins, self.affinity
        if pins.used and pins.hold(lwp):
            return True
        return (bool(affinity.nested) or GREENLET in sys.modules) and affinity.stays(lwp, frame or sys._getframe())

    def _debugs(self, frame: FrameType | None, runners: Container[CodeType]) -> bool:
        """Whether somebody debugs what the runners have called, and nothing is done about its blocks for that."""
        # One that watches by sys.monitoring takes an LWP for its thread by its identity, and would be entered twice.
        hold = self._hold_in_debugger or sys.monitoring.get_tool(sys.monitoring.DEBUGGER_ID) is not None
        return hold and not sys.modules.keys().isdisjoint(DEBUGGERS) and in_debugger(frame or sys._getframe(), runners)

    def _leave(self, lwp: LWP, call: Call) -> None:
        reserve(FRAMES)
        self._blocked(lwp, call)
        if call.may_call_back:
            self._trap_callbacks(lwp, call)
        carrying = self.carrying
        left = carrying.leave(lwp, LwpState.BLOCKED)
        if left and len(carrying.parked) + len(carrying.pollers) < carrying.spare_lwps:
            carrying.replenish()

    @staticmethod
    def _trap_callbacks(lwp: LWP, call: Call) -> Trap | None:
        """Have Python code that the call may call back wait for the loop.  The trap lasts until the call is over."""
        step = lwp.handle
        if step is None:
            return None
        trap = Trap(lwp, step, (), call)
        while not traps.arm(trap, lwp.watch.trap):  # the sampler has just armed another one
            pass
        return trap

    def _retake(self, lwp: LWP, call: Call, still: Callable[[], bool]) -> bool:
        # Told before: the step may come back, and tell its end, as soon as the loop has left it.
        call.task = self.reporting.task_name(lwp)
        self.reporting.begun(lwp, call)

        def reported() -> bool:
            call.reported = still()
            return call.reported

        if not self.carrying.leave(lwp, LwpState.BLOCKED, reported):
            self.reporting.over(lwp, call, monotonic() - call.began)
            return False
        self.carrying.replenish()
        return True

    def _blocked(self, lwp: LWP, call: Call) -> None:
        call.reported = True
        self.reporting.begun(lwp, call)


def _for_step[E: BaseException](lwp: LWP, exc: E) -> E:
    """Note that an exception is to come up in the LWP's step: a callback of the detector lets it pass."""
    lwp.meant = id(exc)
    return exc
