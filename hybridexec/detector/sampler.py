"""The second and the third tier: the sampler, a thread that looks at the carriers (Go's sysmon).

It looks at each running loop once per tick.  A step that it finds where it was a threshold before, at the same
instruction, may stand in a call, or may be Python code that happens to be caught at the same place.  So it *arms a
trap* for the step's next instruction, and looks whether the thread comes to it while the sampler sleeps: a thread
that waits only for the GIL does, one in a call does not.  Then the loop is retaken; the trap sees to the rest.

A marked call (``calls.py``) needs no trap: its end is an event.  It is retaken when it has lasted for the threshold.

The sampler sleeps deeply while nobody executes; a carrier that takes a loop wakes it.  While a loop is busy and
healthy, step after step, with no marked call among them, it looks less and less often: each look takes the GIL from
the carrier, and costs a busy server some 50 microseconds.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import threading
import weakref
from logging import ERROR, WARNING
from types import FrameType
from typing import Any

from ..observing.log import say
from ..observing.upcalls import Detection
from ..platform.clock import monotonic
from ..platform.limits import why_no_thread
from ..platform.machine import is_ready, own_wait, processor_time
from ..platform.own import own
from ..platform.threads import OsThread, os_thread
from ..protocol import borrowing, order
from ..protocol.carrying import Carrying
from ..protocol.handler import Handler
from ..protocol.lwp import IN_POLL, LWP, STEP_ENDED, Bell, LwpState, has_started
from . import tool
from . import trap as traps
from .calls import Call, Site, excluded, learn
from .naming import expression, look_up
from .trap import Trap
from .watch import Responder

IDLE_TICKS = 10
"""After so many ticks without anything to look at, the sampler sleeps until it is woken."""

HEALTHY = 20
"""After so many looks at a busy loop that found nothing, the sampler looks at a ``LAZY``-th of its rate."""

LAZY = 4

PROOF = 0.001
"""Seconds of one sleep during which a trapped thread that can run comes to its trap."""

PROOFS = 2
"""So many such sleeps prove that it stands in a call, if each ended on time ..."""

PATIENCE = 10
"""... or so many if none did: others compete for the GIL."""

FAILURES = 100
"""After so many failures a sampler whose thread has ended is not started again."""

NAP = 0.25
"""Seconds that the sampler sleeps at most while an engine polls that calls the program back from its poll: nobody wakes
it when that happens."""

CALM = 1.0
"""Seconds after the last trap when the events for all code are turned off."""

LENDING = 0.005
"""Seconds that a step may compute while a signal handler waits for the loop, before it is trapped for that."""

HANDLER_BOUND = 0.1
"""Seconds that a signal handler waits for a step that lends nothing."""

LATE = 0.05
"""Seconds by which the sampler must be late before it says that somebody held the GIL.  Ten of the interpreter's switch
intervals: where several threads compute, each may have had it for one or two."""


RETRY = 1.0
"""Seconds after which the system is asked again for the thread that it has refused."""


class _Look:
    """What the sampler saw of one loop the last time.  It keeps nothing of a step alive."""

    __slots__ = ("backoff", "cpu", "frame", "keeps", "lasti", "late", "lwp", "marks", "seen", "stands", "step", "time")

    def __init__(self) -> None:
        self.lwp: LWP | None = None
        self.step: weakref.ref[asyncio.Handle] | None = None
        self.frame = 0  # the identity of its innermost frame
        self.lasti = -1
        self.marks = 0
        self.cpu = 0.0  # the processor time of the LWP's thread ...
        self.time = 0.0  # ... by then
        self.late = 0, -1  # where the step stood when this thread was late the last time
        self.seen = 0.0  # when the step was first seen
        self.keeps = 0, 0.0  # the identity of the step that a signal handler waits for in vain, and since when
        self.backoff = 0  # ticks to let pass after false alarms
        self.stands: object = None  # where the loop stands while nobody executes on it


class _Sleep:
    """How one sampler thread sleeps.  Each thread has its own: one that shall end, and its successor, may overlap."""

    __slots__ = ("bell", "deep")

    def __init__(self) -> None:
        self.bell = Bell()
        self.deep = False  # until it is woken


class Sampler:
    """The process's sampler.  Its thread lives while any loop runs."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()  # a finalizer may close a loop on a thread that is inside of it
        self._loops: dict[Responder, _Look] = {}
        self._sleep = _Sleep()
        self._thread: threading.Thread | None = None
        self._stray: threading.Thread | None = None  # one whose start was interrupted
        self.refused: float | None = None  # when the system had no thread to give; None if it had
        self._tick = 1.0
        self._last_trap = 0.0
        self._waited: float | None = None  # how long the thread had waited for a processor ...
        self._weighed = 0.0  # ... by then
        self._healthy = 0  # how many looks in a row found nothing
        self._idle = 0  # how many ticks in a row found nobody executing
        self._failures = 0
        self._next = 1.0  # when to look the next time: sooner than a tick while a step is suspect

    def watch(self, reactions: Responder, *, again: bool = False) -> None:
        """A loop runs: look at it.  If the system has no thread for that, its loops stay, and the log says why.

        Args:
            reactions: what is done about what is seen.
            again: it may not be looked at, since an exception came up when it should have been.
        """
        with self._lock:
            if again and reactions.carrying.home is None:
                return  # it does not run any longer
            if reactions not in self._loops:
                self._loops[reactions] = _Look()
                self._set_tick()
            if self._thread is None:
                self._start()
            self._sleep.bell.ring()

    def _start(self) -> None:
        """Start the thread.  The lock is held."""
        self._sleep = sleep = _Sleep()
        thread = OsThread(lambda: self._run(sleep), "hybridexec-sampler", lambda: self._ended(thread))
        self._thread = thread
        try:
            thread.start()
        except (RuntimeError, MemoryError) as exc:
            self._thread = None
            if "interpreter shutdown" in str(exc):
                return  # 3.12 has no threads to give from then on: what is left to do is done without the sampler
            if self.refused is None:
                name = type(exc).__name__
                text = "loops cannot move, and block as asyncio's do: no thread for the sampler (%s); %s"
                say(ERROR, text, name, why_no_thread())
            self.refused = monotonic()
            return
        except BaseException:  # a signal handler has raised; the thread may run all the same, and ends by itself
            self._thread, self._stray = None, thread
            sleep.bell.ring()
            raise
        if self.refused is not None:
            self.refused = None
            say(WARNING, "the system has a thread for the sampler now: loops move")

    def _ended(self, thread: threading.Thread) -> None:
        """The thread ends.  If nobody has told it to, another one goes on with its work."""
        with self._lock:
            if self._thread is thread and self._loops:
                self._thread = None
                if self._failures < FAILURES:
                    self._failures += 1
                    self._start()

    def absent(self) -> bool:
        """Whether no loop can move, as there is no thread to look at them.  It is asked for again now and then."""
        if self.refused is None:
            return False
        with self._lock:
            due = self.refused is not None and monotonic() - self.refused >= RETRY
            if due and self._loops:
                self._start()
            return self.refused is not None

    def unwatch(self, reactions: Responder) -> None:
        """A loop does not run any longer.  The thread ends with the last one."""
        thread = None
        with self._lock:
            self._loops.pop(reactions, None)
            if self._loops:
                self._set_tick()
            else:
                thread, self._thread = self._thread, None
            self._sleep.bell.ring()
            stray, self._stray = self._stray, None
        try:
            _await_end(thread, stray)
        except BaseException:  # a signal handler's: they have been told to end, and do
            _await_end(thread, stray)
            raise

    def forked(self) -> None:
        """This process is a child: the thread is not in it."""
        self._reset()

    def look(self) -> None:
        """A loop was taken.  Any thread."""
        sleep = self._sleep
        if sleep.deep:
            sleep.bell.ring()

    def _set_tick(self) -> None:
        ticks = []
        for reactions in list(self._loops):
            ticks.append(min(reactions.threshold, (reactions.preempt or 60) / 4))
        self._tick = min(ticks)

    def _run(self, sleep: _Sleep) -> None:
        me = os_thread()
        self._waited, self._weighed = None, -math.inf  # weighed at the first tick: a short run does without
        self._idle = 0
        while True:
            try:
                while self._tick_once(sleep, me):
                    pass
                return
            except BaseException as exc:
                self._failed(exc)

    def _failed(self, exc: BaseException) -> None:
        """Something of the sampler's own has failed.  Others rely on it: it goes on."""
        self._failures += 1
        say(logging.ERROR, "the sampler failed, and continues", exc=exc)

    def _tick_once(self, sleep: _Sleep, me: threading.Thread) -> bool:
        """Sleep for a tick, and look at each loop.  Returns whether the thread shall go on."""
        late = 0.0
        tick, self._next = self._next, self._tick if self._healthy < HEALTHY else self._tick * LAZY
        due = monotonic() + tick
        if self._idle >= IDLE_TICKS:
            sleep.deep = True
            try:
                # A loop that was taken before this saw nobody to wake, and one that is taken from now on rings.
                loops = list(self._loops.items())
                for reactions, _ in loops:
                    reactions.carrying.unseen = True
                if not any(_needs_eyes(reactions.carrying) for reactions, _ in loops):
                    sleep.bell.wait(_nap(loops))
            finally:
                sleep.deep = False
            self._idle = self._healthy = 0
        else:
            sleep.bell.wait(tick)
            late = monotonic() - due
        now = monotonic()
        with self._lock:
            if self._thread is not me:
                return False
            loops = list(self._loops.items())
        changed = tool.check(callbacks=now - self._weighed > CALM / 2)
        if changed is not None:
            say(logging.ERROR, "somebody has interfered with the detector in sys.monitoring: %s", changed)
        active = False
        self._healthy += 1
        for reactions, look in loops:
            try:
                active = self._look(reactions, look, now, late) or active
            except BaseException as exc:
                self._failed(exc)
                reactions.carrying.repair()  # it may have failed in the middle of a move
        if late <= LATE and now - self._weighed > CALM / 2:
            self._weighed, self._waited = now, own_wait()
        if now - self._last_trap > CALM:
            traps.relax()
        self._idle = 0 if active else self._idle + 1
        return True

    def _look(self, reactions: Responder, look: _Look, now: float, late: float) -> bool:
        """Look at one loop.  Returns whether somebody executes on it."""
        carrying = reactions.carrying
        carrying.unseen = False
        look.stands = carrying.check(look.stands)
        borrowing.remind(carrying)
        handler, summoned = carrying.handler, carrying.summoned
        if handler is not None:
            self._look_at_handler(reactions, handler, now)
        lwp = _executing(carrying)
        if summoned is not None:
            self._look_for_handler(reactions, look, lwp, now - summoned, now)
        if lwp is None:
            look.lwp = look.step = None
            if handler is not None or summoned is not None:
                return True
            holder = carrying.holder
            if holder is None or holder.handle is not IN_POLL:
                self._healthy = 0  # a poll that is held is a part of a busy loop's work
            return False
        carrying.recall(now)
        step = lwp.handle
        same = lwp is look.lwp and look.step is not None and look.step() is step
        if same:
            reactions.lasts()
        if not tool.is_ours():
            look.lwp, look.step = lwp, None if step is None else weakref.ref(step)
            return True  # nobody would see the end of a call
        called_back = 0
        if step is IN_POLL or step is STEP_ENDED:
            # It stands for many calls; one of these is known by its innermost frame.
            called_back = id(lwp.watch.frame())
            same = same and look.frame == called_back
        cpu = processor_time(lwp.watch.clock)
        paused = now - look.time - (cpu - look.cpu) if lwp is look.lwp else math.inf  # how long it has not computed
        look.cpu, look.time = cpu, now
        marked = lwp.state is LwpState.MARKED
        if step is IN_POLL and not marked:
            # There is no mark on a call in a poll: the state says that it polls.
            marked = lwp.watch.call is not None and not lwp.watch.call.loop_stays
        if not same and not marked and late < LATE:
            look.lwp, look.step = lwp, None if step is None else weakref.ref(step)
            look.frame, look.lasti, look.backoff, look.seen = called_back, -1, 0, now
            if reactions.preempt is not None:
                self._next = min(self._tick, max(_slice_left(lwp, reactions.preempt, now), 0.0))
            if carrying.marks != look.marks:
                look.marks = carrying.marks
                self._healthy = 0
            return True
        self._healthy = 0
        self._next = self._tick / 2
        frame = lwp.watch.frame()
        if step is None or frame is None:
            return True
        call = lwp.watch.call
        if marked and call is not None and _stands_in(call, frame):
            if now - call.began >= reactions.threshold * 0.9:
                reactions.overdue(lwp, call, frame)
            return True
        # Python code that the C code of a marked call has called back is looked at like any other.
        if late > LATE:
            # It has computed all the time, or stands in a call, or in the same one as when this thread was late the
            # last time; and this thread could not run.  Else the machine may have had something better to do.
            place = id(frame.f_code), frame.f_lasti
            busy = paused < late / 2 or same or place == look.late
            if busy and traps.may_call(frame.f_code, frame.f_lasti) and self._wanted_gil(late):
                reactions.held_gil(lwp, _call(frame, Detection.HELD_GIL, now - late), late)
            look.late = place
        if reactions.preempt is not None and lwp.watch.trap is None and self._preempt(reactions, lwp, step, frame, now):
            return True
        lasti = frame.f_lasti
        if not same or id(frame) != look.frame or lasti != look.lasti:
            if not same:
                look.seen = now
            look.lwp, look.step, look.frame, look.lasti = lwp, weakref.ref(step), id(frame), lasti
        elif look.backoff > 0:
            look.backoff -= 1
        elif lwp.watch.call is not None and lwp.watch.call.loop_stays and _stands_in(lwp.watch.call, frame):
            pass  # declared, and everything is said
        elif not _in_call(lwp.watch.trap) and not lwp.region and traps.may_call(frame.f_code, lasti):
            if not self._prove(reactions, lwp, step, frame, lasti, look.seen):
                look.backoff = 20
            look.frame = 0
        return True

    def _look_at_handler(self, reactions: Responder, handler: Handler, now: float) -> None:
        """Look at a signal handler of the home's."""
        home = reactions.carrying.home
        frame = None if home is None else home.watch.frame()
        if home is None or frame is None or not handler.relied or handler.call is not None or own(frame.f_code):
            return
        self._healthy = 0
        since = handler.standing_since(frame, now)
        if now - since >= reactions.threshold * 0.9 and traps.may_call(frame.f_code, frame.f_lasti):
            reactions.handler_overdue(home, handler, _call(frame, Detection.DISCOVERED, since), frame)

    def _look_for_handler(self, reactions: Responder, look: _Look, lwp: LWP | None, waits: float, now: float) -> None:
        """A signal handler waits for the loop: trap the step that keeps it, which is to lend it."""
        self._healthy = 0
        carrying = reactions.carrying
        (before, since), look.keeps = look.keeps, (0, 0.0)
        step, frame = (None, None) if lwp is None or lwp is carrying.home else (lwp.handle, lwp.watch.frame())
        if lwp is None or step is None or step is STEP_ENDED or frame is None or waits < LENDING:
            return
        if step is IN_POLL or not reactions.may_preempt(lwp, frame):
            since = since if before == id(step) else now  # on a busy machine the wait alone says nothing of the step
            look.keeps = id(step), since
            if now - since >= HANDLER_BOUND:
                borrowing.give_up(carrying)
        elif lwp.state is LwpState.RUNNING and not _in_call(lwp.watch.trap):
            trap = lwp.watch.trap
            if trap is None or frame.f_code not in trap.codes:
                self._last_trap = now
                traps.arm(Trap(lwp, step, [frame.f_code], None), trap)

    def _wanted_gil(self, late: float) -> bool:
        """Whether this thread was late for want of the interpreter, and not of a processor, as far as that is known."""
        before, self._waited = self._waited, own_wait()
        return before is None or self._waited is None or self._waited - before < late / 2

    def _prove(self, reactions: Responder, lwp: LWP, step: Any, frame: FrameType, lasti: int, seen: float) -> bool:
        """Find out whether a step stands in a call, and if so have the loop retaken from it."""
        self._last_trap = monotonic()
        runner = frame.f_code in reactions.runner_codes
        if excluded(frame.f_code) and (not runner or step is STEP_ENDED):
            return False  # between two steps, too, the loop's own code goes on without a look
        call = _call(frame, Detection.DISCOVERED, seen)
        # What comes after a callback in C, called by the loop itself, is the loop's own code, which looks by itself.
        codes = () if runner else (frame.f_code, *traps.interrupted(frame, reactions.runner_codes))
        trap = Trap(lwp, step, codes, call)
        sliced = lwp.watch.trap  # its time slice may be over, but it stands in a call
        if _in_call(sliced) or not traps.arm(trap, sliced):
            return False
        try:
            proved = self._stays_put(trap, frame, lasti)
            if proved and not runner:
                learn(frame.f_code, lasti)  # before the loop goes on: the next step may be about to make the same call
            if not proved or not reactions.discovered(trap, frame):
                traps.disarm(trap)
                return False
        except BaseException:
            if lwp not in reactions.carrying.detached:  # else the step is without the loop, and must not pass
                traps.disarm(trap)  # or nobody would look at this step again
            raise
        self._last_trap = monotonic()
        return True

    @staticmethod
    def _stays_put(trap: Trap, frame: FrameType, lasti: int) -> bool:
        """Whether a trapped thread does not come to its trap, although it could."""
        lwp, step = trap.lwp, trap.step
        prompt = 0
        starved = False
        for _ in range(PATIENCE):
            if trap.sprung or not _stands(lwp, step, frame, lasti):
                return False
            began, computed = monotonic(), processor_time(lwp.watch.clock)
            threading.Event().wait(PROOF)
            on_time = monotonic() - began < 2 * PROOF
            starved = is_ready(lwp.watch.native) and processor_time(lwp.watch.clock) == computed
            prompt += on_time and not starved
            if prompt >= PROOFS:
                break
        return not starved and _stands(lwp, step, frame, lasti)

    def _preempt(self, reactions: Responder, lwp: LWP, step: asyncio.Handle, frame: FrameType, now: float) -> bool:
        """Trap a step that has used up its time slice.  Returns whether it is on the point of being trapped, or is."""
        assert reactions.preempt is not None
        left = _slice_left(lwp, reactions.preempt, now)
        if left > 0:
            self._next = min(self._next, left)
            return False
        if not reactions.may_preempt(lwp, frame) or not order.is_wanted_by_others(reactions.carrying, lwp):
            return False
        self._last_trap = now
        return traps.arm(Trap(lwp, step, [frame.f_code], None))


def _await_end(*threads: threading.Thread | None) -> None:
    for thread in threads:
        if thread is not None and thread is not os_thread() and has_started(thread):
            thread.join()


def _executing(carrying: Carrying) -> LWP | None:
    """Who executes on a loop."""
    lwp = carrying.holder
    if lwp is not None and lwp.handle is IN_POLL:
        frame = lwp.watch.frame()
        return None if frame is None or own(frame.f_code) else lwp  # it waits, unless the engine has called it back
    return None if lwp is None or lwp.state is LwpState.POLLING else lwp


def _nap(loops: list[tuple[Responder, _Look]]) -> float:
    """How long to sleep deeply."""
    if any(lwp is not None and lwp.handle is IN_POLL for lwp in (reactions.carrying.holder for reactions, _ in loops)):
        return NAP
    return CALM if traps.watching() else -1


def _needs_eyes(carrying: Carrying) -> bool:
    """Whether there may be something to see at a loop before it is taken the next time."""
    return bool(
        _executing(carrying)
        or order.owes(carrying)
        or carrying.handler
        or carrying.summoned is not None
        or order.is_expected(carrying)
    )


def _in_call(trap: Trap | None) -> bool:
    """Whether a step is trapped because it stands in a call; one trapped for its time slice may come to do so."""
    return trap is not None and trap.call is not None


def _stands_in(call: Call, frame: FrameType) -> bool:
    """Whether a thread stands in a call that was seen when it began, or in this package's own code on the way there:
    else Python code runs that C code has called, and its calls go through this package's code as well."""
    code, offset, at = call.code, call.site.offset, frame
    while not (at.f_code is code and at.f_lasti == offset):
        if at.f_back is None or not own(at.f_code):
            return False
        at = at.f_back
    return True


def _slice_left(lwp: LWP, preempt: float, now: float) -> float:
    """How much of its time slice a step has left.  Rather early than late: when the sampler wakes, it may take the
    interpreter's switch interval until it comes to run."""
    began: float = lwp.watch.began
    return began + preempt - min(1.5 * sys.getswitchinterval(), preempt / 2) - now


def _stands(lwp: LWP, step: asyncio.Handle, frame: FrameType, lasti: int) -> bool:
    """Whether the LWP's thread is still where it was.  Called after the trap is armed, it makes the trap safe: the
    thread has not left the trapped frame, and whatever it does next is an event."""
    return lwp.handle is step and lwp.watch.frame() is frame and frame.f_lasti == lasti


def _call(frame: FrameType, detection: Detection, began: float) -> Call:
    code, offset = frame.f_code, frame.f_lasti
    name = expression(code, offset)
    call = Call(Site(code, offset), name, look_up(frame, name), detection)
    call.began = began
    return call


sampler = Sampler()
"""The sampler of the process."""
