"""Telling: what is said of blocks: upcalls, the sums of them, the text of an exception, and what the log needs.

What is done about a block is decided in ``reactions.py``; nothing here changes who carries the loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import CodeType
from typing import TYPE_CHECKING

from .clock import monotonic
from .detector.calls import Call, Site
from .errors import BlockingCallError
from .identity import os_ident
from .lwp import IN_POLL, LWP, TASK_OF_THREAD
from .tasks import task_of
from .upcalls import Detection, Emitter, Upcall, UpcallKind

if TYPE_CHECKING:
    from .carrying import Carrying


class Telling:
    """What one loop says of its blocks.  Any thread may tell.

    Args:
        loop: the loop.
        carrying: who carries it.
        emitter: where upcalls go.

    Attributes:
        longest: the longest block that is over, in seconds.
        total: the sum of all blocks, in seconds.
        when_refused: called with each exception that mode "raise" raises.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, carrying: Carrying, emitter: Emitter) -> None:
        self._loop = loop
        self._carrying = carrying
        self._emitter = emitter
        self._lock = threading.Lock()
        self.when_refused: Callable[[BlockingCallError], object] | None = None
        self.longest = 0.0
        self.total = 0.0

    def loosen(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop is closed: refer to it by this from now on."""
        self._loop = loop

    # ---------------------------------------------------------------- upcalls

    def begun(self, lwp: LWP, call: Call) -> None:
        """An LWP's step blocks."""
        if self._emitter.listens(UpcallKind.BLOCKED):
            self._emitter.emit(self._upcall(UpcallKind.BLOCKED, lwp, call, None))
        else:
            self._emitter.count(UpcallKind.BLOCKED)

    def over(self, lwp: LWP, call: Call, duration: float) -> None:
        """A block is over, after so many seconds."""
        with self._lock:
            self.total += duration
            if duration > self.longest:
                self.longest = duration
        if self._emitter.listens(UpcallKind.UNBLOCKED):
            self._emitter.emit(self._upcall(UpcallKind.UNBLOCKED, lwp, call, duration))
        else:
            self._emitter.count(UpcallKind.UNBLOCKED)

    def preempted(self, lwp: LWP, code: CodeType) -> None:
        """An LWP's step is interrupted in its code."""
        if self._emitter.listens(UpcallKind.PREEMPTED):
            call = Call(Site(code, 0), None, None, Detection.PREEMPTED)
            self._emitter.emit(self._upcall(UpcallKind.PREEMPTED, lwp, call, None))
        else:
            self._emitter.count(UpcallKind.PREEMPTED)

    def notice(self, kind: UpcallKind, lwp: LWP) -> None:
        """Emit an upcall of the pool."""
        if self._emitter.listens(kind):
            self._emitter.emit(Upcall(kind, monotonic(), self._loop, lwp.name))
        else:
            self._emitter.count(kind)

    def _upcall(self, kind: UpcallKind, lwp: LWP, call: Call, duration: float | None) -> Upcall:
        if call.user_thread is None:
            call.user_thread = self.task_name(lwp)
        if call.in_poll is None:  # told once: the sampler may tell the end when the step is over already
            call.in_poll = lwp.handle is IN_POLL
        site = call.site.describe()
        return Upcall(
            kind,
            monotonic(),
            self._loop,
            lwp.name,
            call.user_thread,
            site,
            call.name,
            call.detection,
            duration,
            in_poll=call.in_poll,
        )

    # ---------------------------------------------------------------- mode "raise"

    def refusal(self, call: Call, when: str) -> BlockingCallError:
        """The exception that a call is refused with."""
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
            return f"task {self.task_name(lwp)!r} ({lwp.state.value})"
        lasted = monotonic() - call.began
        return f"task {self.task_name(lwp)!r} in {call.name or 'a call'} at {call.site.describe()} for {lasted:.1f} s"

    def stuck(self, lwps: list[LWP]) -> str:
        """Whether all these LWPs wait for locks, and so maybe for a user thread that waits for the loop."""
        calls = [self._call_of(lwp) for lwp in lwps]
        if not calls or not all(call is not None and hasattr(call.argument, "acquire") for call in calls):
            return ""
        locks = "; ".join(f"{call.argument!r} at {call.site.describe()}" for call in calls if call is not None)
        return (
            f"; every one waits for a lock, which may be for ever if only a waiting user thread can release it: {locks}"
        )

    def task_name(self, lwp: LWP) -> str | None:
        """The name of the user thread that an LWP runs.  An eager one begins inside of another's step: what asyncio
        says comes first, where it can be asked."""
        task = lwp.task
        if task is None and (lwp.ident == os_ident() or (not TASK_OF_THREAD and lwp is self._carrying.holder)):
            task = asyncio.current_task(self._loop)
        task = task or task_of(lwp)
        if task is not None:
            return task.get_name()
        owner = getattr(getattr(lwp.handle, "_callback", None), "__self__", None)
        return getattr(owner, "name", None) if hasattr(owner, "user_task") else None  # a plain callable's user thread

    @staticmethod
    def _call_of(lwp: LWP) -> Call | None:
        trap = lwp.trap
        return lwp.call or (trap.call if trap is not None else None)
