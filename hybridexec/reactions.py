"""Reactions: what a loop does about what the detector sees.

The detector knows LWPs and calls; this file knows the loop's mode, its pins, whether somebody debugs, and turns a
detected block into a handoff, a report, or an exception.  Here upcalls are emitted and blocks are added up.
"""

from __future__ import annotations

import asyncio
import dis
import os
import sqlite3
import sys
import threading
import weakref
from collections.abc import Callable
from time import monotonic
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from . import rlocks
from .attributes import Attributes
from .connections import Connections, in_use
from .detector import trap as traps
from .detector.calls import Call, Site, excluded
from .detector.catalogue import Binds
from .detector.trap import Trap
from .errors import BlockingCallError
from .identity import os_ident
from .lwp import IN_POLL, LWP, TASK_OF_THREAD, LwpState, Region
from .upcalls import Detection, Emitter, Upcall, UpcallKind

if TYPE_CHECKING:
    from .affinity import Affinity
    from .carrying import Carrying
    from .config import Config

_SEND, _CACHE = dis.opmap["SEND"], dis.opmap["CACHE"]
_ANYIO = f"{os.sep}anyio{os.sep}"
_THREADING = threading.__file__  # it holds the lock of all threads there, which a new LWP needs
_DEBUGGERS = ("bdb", "pydevd")
_PYDEVD = tuple(f"{os.sep}{folder}{os.sep}" for folder in ("pydevd", "_pydevd_bundle", "_pydevd_frame_eval"))


class Reactions:
    """What one loop does about blocks.

    Args:
        loop: the loop.
        carrying: who carries it.
        emitter: where upcalls go.
        affinity: who notes what binds a user thread to its LWP.
        config: the loop's configuration.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, carrying: Carrying, emitter: Emitter, affinity: Affinity, config: Config
    ) -> None:
        self.loop = loop
        self.mode = config.mode
        self.threshold = config.threshold
        self.preempt = config.preempt
        self._hold_in_debugger = config.hold_in_debugger
        self._carrying = carrying
        self._emitter = emitter
        self.affinity = affinity
        self.connections = Connections()
        self.attributes = Attributes()
        self._pins: weakref.WeakKeyDictionary[asyncio.Task[Any], int] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        self.when_refused: Callable[[BlockingCallError], object] | None = None
        self.longest = 0.0  # the longest block that is over, in seconds
        self.total = 0.0  # the sum of all blocks

    def adopt(self, config: Config) -> None:
        """Take over what may change between two runs."""
        self.mode, self.threshold, self.preempt = config.mode, config.threshold, config.preempt

    # ---------------------------------------------------------------- declared calls, on the LWP itself

    def call(self, lwp: LWP, call: Call, sure: bool) -> None:
        """A step begins a call that blocks (``sure``), or may block; if its last one was slow, that is suspected."""
        if lwp.state is LwpState.BLOCKED:
            # C code that blocks has called back into Python: no code runs without the loop.
            self.resume(lwp)
        call.outer = lwp.call
        try:
            self._begin(lwp, call, sure)
        except BaseException:
            # The mode is "raise": the call is not made.
            lwp.call = call.outer
            if lwp is self._carrying.home:
                self._carrying.regain(lwp)
            raise
        if lwp.interrupt is not None:
            self.over(lwp, call, raised=False)  # it is not made, either

    def _begin(self, lwp: LWP, call: Call, sure: bool) -> None:
        lwp.call = call
        suspected = call.site.slow and not call.brief and self.mode == "handoff"
        acts = (sure or suspected) and self._acts(lwp, sys._getframe(3))
        leaves = acts and lwp.handle is not IN_POLL
        if not sure and not leaves:
            if call.brief and self.mode != "handoff":
                call.stays = True  # nobody is blamed for it
            elif lwp.state is LwpState.RUNNING:
                self._carrying.mark(lwp)
        elif acts and self.mode == "raise":
            self._blocked(lwp, call)
            raise self._error(call, "")
        elif leaves:
            self._leave(lwp, call)
        else:
            call.stays = True
            self._blocked(lwp, call)

    def over(self, lwp: LWP, call: Call, *, raised: bool) -> None:
        """A declared call is over."""
        if call.binds is Binds.RLOCK_RESTORED and not raised:
            rlocks.restored(lwp, call.argument)
        lwp.call = call.outer
        if call.waiting is not None:
            self._tell(call)
        trap = lwp.trap
        if trap is not None and trap.call is call:
            traps.disarm(trap)
        self.resume(lwp, call)
        if call.binds is Binds.ATTRIBUTES:
            self.attributes.changed(lwp)
        late = call.reported and self.mode == "raise" and call.detection is Detection.DECLARED and not raised
        if late and self._may_leave(lwp, sys._getframe(2)):
            raise self._error(call, ", found when it was under way")
        if not raised:
            self.interrupt(lwp)

    def enter(self, lwp: LWP, call: Call) -> bool:
        """``with blocking():`` begins.  Returns whether its body runs without the loop.

        Mode "raise" hands off too: who says that a call blocks has done all there is to do.
        """
        call.outer = lwp.call
        lwp.call = call
        try:
            if self.mode == "observe" or self._pinned(lwp) or lwp.handle is IN_POLL:
                lwp.region = Region.HERE
                lwp.alert = True  # there may be an await in it
                self._blocked(lwp, call)
                return False
            lwp.region = Region.AWAY
            self.affinity.rlocks.take_along(lwp, task_of(lwp))
            self._leave(lwp, call)
            self.interrupt(lwp)
        except BaseException:
            lwp.region = None
            lwp.call = call.outer
            self.resume(lwp, call)
            raise
        return True

    def resume(self, lwp: LWP, call: Call | None = None) -> None:
        """Hold the loop again; then say how long the block took."""
        # What the protocol and the instruments do on the way is no part of the step: no call of theirs is one of it.
        region, lwp.region = lwp.region, Region.OWN
        ended = monotonic()  # what follows is waiting for its turn
        try:
            self._carrying.rejoin(lwp)
            if call is not None:
                duration = ended - call.began
                call.site.slow = duration >= self.threshold
                if call.reported:
                    self._unblocked(lwp, call, duration)
        except BaseException:
            if lwp is self._carrying.home:
                self._carrying.regain(lwp)
            raise
        finally:
            lwp.region = region

    def step_over(self, lwp: LWP) -> None:
        """A step is over: whatever it was in is over too."""
        call, trap = lwp.call, lwp.trap
        lwp.call = None
        self._tell_all(call)
        lwp.region = None
        if trap is not None:
            call = trap.call or call
            traps.disarm(trap)
        self.resume(lwp, call)

    def stranded(self, lwp: LWP) -> None:
        """A step is about to go on with an exception, and is still without the loop."""
        call, lwp.call = lwp.call, None
        self._tell_all(call)
        self.resume(lwp, call)

    @staticmethod
    def interrupt(lwp: LWP) -> None:
        """Raise what a signal handler raised while the step waited for the loop."""
        if lwp.interrupt is not None:
            interrupt, lwp.interrupt = lwp.interrupt, None
            if interrupt is not None:  # the home may have taken it back
                raise interrupt

    def binds(self, lwp: LWP, binds: Binds, argument: Any, site: Site) -> None:
        """A step calls something that ties it to its LWP."""
        if binds is not Binds.SQLITE:
            self.affinity.noticed(lwp, binds, argument)
        else:
            connection = self.connections.used(argument)
            if connection is not None and self._carrying.detached:
                self._await_use(lwp, connection, site)

    def _await_use(self, lwp: LWP, connection: sqlite3.Connection, site: Site) -> None:
        """Wait until no other step is in the middle of using a connection: like any call that blocks."""
        while True:
            with self._carrying.mutex:
                bell = in_use(self._carrying.detached - {lwp}, connection)
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
        with self._carrying.mutex:
            waiting, call.waiting = call.waiting, None
        for bell in waiting or ():
            bell.ring()

    def _tell_all(self, call: Call | None) -> None:
        """A call is over, and all that it is in."""
        while call is not None:
            self._tell(call)
            call = call.outer

    # ---------------------------------------------------------------- the sampler's notices

    def overdue(self, lwp: LWP, call: Call, frame: FrameType | None) -> None:
        """A marked call has lasted for the threshold."""
        if self.mode == "handoff" and self._may_leave(lwp, frame):
            trap = self._trap_callbacks(lwp, call) if call.foreign else None
            if trap is not None and (frame is None or lwp.frame() is not frame):
                traps.disarm(trap)  # it has called back already
                return
            left = self._retake(
                lwp,
                call,
                lambda: (
                    lwp.state is LwpState.MARKED
                    and lwp.call is call
                    and (trap is None or (lwp.trap is trap and not trap.sprung))
                ),
            )
            if trap is not None and not left:
                traps.disarm(trap)
        else:
            self._emit_blocked(lwp, call)
            with self._carrying.mutex:
                call.reported = lwp.state in (LwpState.MARKED, LwpState.POLLING) and lwp.call is call
                if call.reported:
                    call.stays = True
                    if lwp.state is LwpState.MARKED:
                        lwp.state = LwpState.RUNNING
            if not call.reported:
                self._unblocked(lwp, call, monotonic() - call.began)

    def discovered(self, trap: Trap, frame: FrameType | None) -> bool:
        """A trapped step does stand in a call.  Returns whether the trap is needed any longer."""
        lwp, call = trap.lwp, trap.call
        assert call is not None
        if self.mode == "handoff" and self._may_leave(lwp, frame):
            return self._retake(
                lwp,
                call,
                lambda: lwp.state in (LwpState.RUNNING, LwpState.MARKED) and lwp.trap is trap and not trap.sprung,
            )
        self._emit_blocked(lwp, call)
        with self._carrying.mutex:
            call.reported = lwp.trap is trap and not trap.sprung
        if not call.reported:
            self._unblocked(lwp, call, monotonic() - call.began)
        return call.reported

    def held_gil(self, lwp: LWP, call: Call, duration: float) -> None:
        """Nothing in the process could run for so long."""
        self._add(duration)
        if self._emitter.listens(UpcallKind.UNBLOCKED):
            self._emitter.emit(self._upcall(UpcallKind.UNBLOCKED, lwp, call, duration))
        else:
            self._emitter.count(UpcallKind.UNBLOCKED)

    def may_preempt(self, lwp: LWP, frame: FrameType) -> bool:
        """Whether a step may be interrupted where it stands."""
        return self.mode == "handoff" and self._interruptible(frame) and self._may_leave(lwp, frame)

    # ---------------------------------------------------------------- traps, on the LWP itself

    def trapped(self, lwp: LWP, trap: Trap, code: CodeType) -> None:
        """A trapped thread goes on: not before it holds the loop."""
        if trap.call is None:
            self._preempted(lwp, trap, code)
            return
        with self._carrying.mutex:
            trap.sprung = True
            away = lwp in self._carrying.detached
        call = trap.call
        if away:
            self.resume(lwp, call)
        elif call.reported:
            self._unblocked(lwp, call, monotonic() - call.began)
        traps.disarm(trap)
        reported, call.reported = call.reported, False  # told once, also where the call's own end is an event
        if reported and self.mode == "raise":
            raise self._error(call, ", found when it was under way")
        self.interrupt(lwp)

    def _interruptible(self, frame: FrameType | None) -> bool:
        """Whether code may be interrupted: not in the middle of asyncio's, anyio's or threading's, nor of what these
        have called."""
        while frame is not None and frame.f_code not in self._carrying.runner_codes:
            code = frame.f_code
            ours = excluded(code) or _ANYIO in code.co_filename or code.co_filename == _THREADING
            if ours and not _awaits(frame):
                return False  # nothing else runs now, it thinks
            frame = frame.f_back
        return True

    def _preempted(self, lwp: LWP, trap: Trap, code: CodeType) -> None:
        if lwp.handle is trap.step and lwp.state is LwpState.RUNNING:
            frame: FrameType | None = sys._getframe()
            while frame is not None and frame.f_code is not code:
                frame = frame.f_back
            if not self._interruptible(frame):
                return  # not here; the trap stays
            traps.disarm(trap)
            if self._may_leave(lwp, frame) and self._carrying.others(lwp):
                if self._emitter.listens(UpcallKind.PREEMPTED):
                    self._emitter.emit(
                        self._upcall(
                            UpcallKind.PREEMPTED, lwp, Call(Site(code, 0), None, None, Detection.PREEMPTED), None
                        )
                    )
                else:
                    self._emitter.count(UpcallKind.PREEMPTED)
                self._carrying.leave(lwp, LwpState.PREEMPTED)
                self.resume(lwp)
                lwp.began = monotonic()
                self.interrupt(lwp)
            return
        traps.disarm(trap)

    # ---------------------------------------------------------------- pins

    def pin(self, lwp: LWP, task: asyncio.Task[Any] | None) -> None:
        """``with pinned():`` begins."""
        if task is not None:
            self._pins[task] = self._pins.get(task, 0) + 1
            return
        if lwp.pin_step is not lwp.handle:
            lwp.pin_step, lwp.pin_count = lwp.handle, 0
        lwp.pin_count += 1

    def unpin(self, lwp: LWP | None, task: asyncio.Task[Any] | None) -> None:
        """``with pinned():`` ends, maybe in a later step."""
        if task is not None:
            count = self._pins.get(task, 0) - 1
            if count > 0:
                self._pins[task] = count
            else:
                self._pins.pop(task, None)
        elif lwp is not None and lwp.pin_step is lwp.handle and lwp.pin_count:
            lwp.pin_count -= 1

    def _pinned(self, lwp: LWP) -> bool:
        if lwp.pin_count and lwp.pin_step is lwp.handle:
            return True
        if not self._pins:
            return False
        # Not only the task that the step is of: an eager one begins in its parent's step, and pins it until it waits.
        # A pinned task that runs does so on the holder, which is who is asked about.
        pinned = (reference() for reference in self._pins.keyrefs())
        return any(task is not None and (task is task_of(lwp) or _runs(task)) for task in pinned)

    # ---------------------------------------------------------------- inside

    def _may_leave(self, lwp: LWP, frame: FrameType | None) -> bool:
        """Whether the loop may move away from the LWP's step."""
        return lwp.handle is not IN_POLL and self._acts(lwp, frame)

    def _acts(self, lwp: LWP, frame: FrameType | None) -> bool:
        """Whether anything but a report is done about a block of the LWP's step."""
        if self.mode == "observe" or self._pinned(lwp):
            return False
        # One that watches by sys.monitoring takes an LWP for its thread by its identity, and would be entered twice.
        hold = self._hold_in_debugger or sys.monitoring.get_tool(sys.monitoring.DEBUGGER_ID) is not None
        return not (hold and in_debugger(frame))

    def _leave(self, lwp: LWP, call: Call) -> None:
        self._blocked(lwp, call)
        if call.foreign:
            self._trap_callbacks(lwp, call)
        if self._carrying.leave(lwp, LwpState.BLOCKED):
            self._carrying.replenish()

    @staticmethod
    def _trap_callbacks(lwp: LWP, call: Call) -> Trap | None:
        """Have Python code that the call may call back wait for the loop.  The trap lasts until the call is over."""
        step = lwp.handle
        if step is None:
            return None
        trap = Trap(lwp, step, (), call)
        while not traps.arm(trap, lwp.trap):  # the sampler has just armed another one
            pass
        return trap

    def _retake(self, lwp: LWP, call: Call, still: Callable[[], bool]) -> bool:
        # Told before: the step may come back, and tell its end, as soon as the loop has left it.
        call.user_thread = self._task_name(lwp)
        self._emit_blocked(lwp, call)

        def reported() -> bool:
            call.reported = still()
            return call.reported

        if not self._carrying.leave(lwp, LwpState.BLOCKED, reported):
            self._unblocked(lwp, call, monotonic() - call.began)
            return False
        self._carrying.replenish()
        return True

    def _blocked(self, lwp: LWP, call: Call) -> None:
        call.reported = True
        self._emit_blocked(lwp, call)

    def _emit_blocked(self, lwp: LWP, call: Call) -> None:
        if self._emitter.listens(UpcallKind.BLOCKED):
            self._emitter.emit(self._upcall(UpcallKind.BLOCKED, lwp, call, None))
        else:
            self._emitter.count(UpcallKind.BLOCKED)

    def _unblocked(self, lwp: LWP, call: Call, duration: float) -> None:
        self._add(duration)
        if self._emitter.listens(UpcallKind.UNBLOCKED):
            self._emitter.emit(self._upcall(UpcallKind.UNBLOCKED, lwp, call, duration))
        else:
            self._emitter.count(UpcallKind.UNBLOCKED)

    def _add(self, duration: float) -> None:
        with self._lock:
            self.total += duration
            if duration > self.longest:
                self.longest = duration

    def _upcall(self, kind: UpcallKind, lwp: LWP, call: Call, duration: float | None) -> Upcall:
        if call.user_thread is None:
            call.user_thread = self._task_name(lwp)
        if call.in_poll is None:  # told once: the sampler may tell the end when the step is over already
            call.in_poll = lwp.handle is IN_POLL
        site = call.site.describe()
        return Upcall(
            kind,
            monotonic(),
            self.loop,
            lwp.name,
            call.user_thread,
            site,
            call.name,
            call.detection,
            duration,
            in_poll=call.in_poll,
        )

    def _error(self, call: Call, when: str) -> BlockingCallError:
        error = BlockingCallError(
            f"{call.name or 'a call'} blocks the event loop at {call.site.describe()} ({call.detection.value}{when})"
        )
        if self.when_refused is not None:
            self.when_refused(error)
        return error

    # ---------------------------------------------------------------- for the log

    def describe(self, lwp: LWP) -> str:
        """What an LWP is blocked in."""
        call = self._call_of(lwp)
        if call is None:
            return f"task {self._task_name(lwp)!r} ({lwp.state.value})"
        lasted = monotonic() - call.began
        return f"task {self._task_name(lwp)!r} in {call.name or 'a call'} at {call.site.describe()} for {lasted:.1f} s"

    def stuck(self, lwps: list[LWP]) -> str:
        """Whether all these LWPs wait for locks, and so maybe for a user thread that waits for the loop."""
        calls = [self._call_of(lwp) for lwp in lwps]
        if not calls or not all(call is not None and hasattr(call.argument, "acquire") for call in calls):
            return ""
        locks = "; ".join(f"{call.argument!r} at {call.site.describe()}" for call in calls if call is not None)
        return (
            f"; every one waits for a lock, which may be for ever if only a waiting user thread can release it: {locks}"
        )

    def _task_name(self, lwp: LWP) -> str | None:
        """The name of the user thread that an LWP runs.  An eager one begins inside of another's step: what asyncio
        says comes first, where it can be asked."""
        task = lwp.task
        if task is None and (lwp.ident == os_ident() or (not TASK_OF_THREAD and lwp is self._carrying.holder)):
            task = asyncio.current_task(self.loop)
        task = task or task_of(lwp)
        if task is not None:
            return task.get_name()
        owner = getattr(getattr(lwp.handle, "_callback", None), "__self__", None)
        return getattr(owner, "name", None) if hasattr(owner, "user_task") else None  # a plain callable's user thread

    @staticmethod
    def _call_of(lwp: LWP) -> Call | None:
        trap = lwp.trap
        return lwp.call or (trap.call if trap is not None else None)


def _awaits(frame: FrameType) -> bool:
    """Whether a frame awaits what runs above it."""
    code, offset = frame.f_code.co_code, frame.f_lasti
    while code[offset] == _CACHE:  # where 3.12 is then
        offset -= 2
    return code[offset] == _SEND


def task_of(lwp: LWP) -> asyncio.Task[Any] | None:
    """The user thread whose step an LWP runs, as far as its callback tells."""
    handle = lwp.handle
    owner = getattr(getattr(handle, "_callback", None), "__self__", None)
    # The first step of an executor's user thread is not its task's: there it becomes one, or never does.
    task = getattr(owner, "user_task", owner)
    return task if isinstance(task, asyncio.Task) else None


def _runs(task: asyncio.Task[Any]) -> bool:
    """Whether a task's coroutine runs now, as far as it tells."""
    return bool(getattr(task.get_coro(), "cr_running", False))


def in_debugger(frame: FrameType | None) -> bool:
    """Whether a debugger's code is among a frame's callers.  Costs nothing while no debugger is imported."""
    if sys.modules.keys().isdisjoint(_DEBUGGERS):
        return False
    files = [getattr(sys.modules.get(name), "__file__", None) for name in ("bdb", "pdb")]
    while frame is not None:
        name = frame.f_code.co_filename
        if name in files or os.path.basename(name) == "pydevd.py" or any(folder in name for folder in _PYDEVD):
            return True
        frame = frame.f_back
    return False
