"""Telling: what is said of blocks: upcalls, the sums of them, the text of an exception, and what the log needs.

What is done about a block is decided in ``reactions.py``; nothing here changes who carries the loop.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Callable
from types import CodeType

from .carrying import Carrying
from .clock import monotonic
from .detector.calls import Call, Site
from .errors import BlockingCallError
from .identity import os_ident
from .log import LISTED, told
from .lwp import IN_POLL, LWP, TASK_OF_THREAD
from .program import origin
from .tasks import task_of
from .upcalls import Detection, Emitter, Origin, Upcall, UpcallKind

_CARRY = Carrying.carry.__code__  # below it is who has called run()


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
        self._bottoms: frozenset[int] = frozenset()  # the identities of the code whose frames call steps
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
            call.origin = self._origin(lwp)
        site = call.site.describe()
        program_site, via = call.origin or (None, None)
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
            program_site=program_site,
            via=via,
        )

    def _origin(self, lwp: LWP) -> Origin | None:
        """Where the program has called what an LWP's step stands in."""
        if not self._bottoms:
            self._bottoms = frozenset(map(id, (*self._carrying.runner_codes, _CARRY)))
        return origin(sys._getframe(2) if lwp.ident == os_ident() else lwp.frame(), self._bottoms)

    # ---------------------------------------------------------------- mode "raise"

    def refusal(self, lwp: LWP, call: Call, when: str) -> BlockingCallError:
        """The exception that a call is refused with."""
        made, found = call.site.describe(), self._origin(lwp)
        place = f"{made}" if found is None or found.site == made else f"{found.site}, by way of {made}"
        error = BlockingCallError(
            f"{call.name or 'a call'} blocks the event loop at {place} ({call.detection.value}{when})"
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
        calls = [call for lwp in lwps if (call := self._call_of(lwp)) is not None and _is_lock(call.argument)]
        if not calls or len(calls) < len(lwps):
            return ""
        locks = Counter(f"{told(call.argument)} {id(call.argument):#x} at {call.site.describe()}" for call in calls)
        return (
            "; every one waits for a lock, which may be for ever if only a waiting user thread can release it: "
            + "; ".join(text if count == 1 else f"{text} ({count} times)" for text, count in locks.most_common(LISTED))
        )

    def places(self, lwps: list[LWP]) -> Counter[str]:
        """What LWPs are blocked in, and how many of them in each."""
        calls = [self._call_of(lwp) for lwp in lwps]
        return Counter("?" if call is None else f"{call.name or 'a call'} at {call.site.describe()}" for call in calls)

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


def _is_lock(value: object) -> bool:
    """Whether something is a lock; its class is looked at, as the object may be a stand-in that runs code."""
    return hasattr(type(value), "acquire")
