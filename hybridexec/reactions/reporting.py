"""Reporting: what is said of blocks: upcalls, the sums of them, the text of an exception, and what the log needs.

What is done about a block is decided in ``reactions.py``; nothing here changes who carries the loop.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import Callable
from types import CodeType

from ..detector.calls import Call, Site
from ..errors import BlockingCallError
from ..following.tasks import TASK_OF_THREAD, task_of
from ..observing.log import LISTED, Trouble, say, told
from ..observing.program import origin
from ..observing.upcalls import Detection, Emitter, Origin, Upcall, UpcallKind
from ..platform import limits
from ..platform.clock import monotonic
from ..platform.threads import os_ident
from ..protocol.carrying import Carrying
from ..protocol.lwp import IN_POLL, LWP

_CARRY = Carrying.carry.__code__  # below it is who has called run()

_UNTIL = "until that is better, the loop waits for LWPs that are blocked to come back"

_refusals = Trouble("the system had no thread for an LWP again (%d times)")
"""Of the process: what it may have, all its loops share."""


def _why() -> str:
    """Why there is no thread.  Files are read for that; and what is short may be what that needs."""
    try:
        return limits.why_no_thread()
    except Exception as exc:
        return f"the cause cannot be found out ({told(exc)})"


class Reporting:
    """What one loop says of its blocks.  Any thread may tell.

    The protocol's ``Voice``, too.

    Args:
        loop: the loop.
        carrying: who carries it.
        emitter: where upcalls go.
        runner_codes: the code whose frames call steps.

    Attributes:
        when_refused: called with each exception that mode "raise" raises.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        carrying: Carrying,
        emitter: Emitter,
        runner_codes: frozenset[CodeType],
    ) -> None:
        self._loop = loop
        self._carrying = carrying
        self._emitter = emitter
        self.when_refused: Callable[[BlockingCallError], object] | None = None
        self._bottoms = frozenset(map(id, (*runner_codes, _CARRY)))
        self._exhaustion = Trouble("all LWPs of a loop were blocked again (%d times)")
        self._repaired = False  # it was said that the loop had to be repaired
        self._tally = emitter.tally

    def loosen(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop is closed: refer to it by this from now on."""
        self._loop = loop

    # ---------------------------------------------------------------- upcalls

    def begun(self, lwp: LWP, call: Call) -> None:
        """An LWP's step blocks."""
        if self._emitter.count(UpcallKind.BLOCKED):
            self._emitter.emit(self._upcall(UpcallKind.BLOCKED, lwp, call, None))

    def over(self, lwp: LWP, call: Call, duration: float) -> None:
        """A block is over, after so many seconds."""
        self._tally.add(duration)
        if self._emitter.count(UpcallKind.UNBLOCKED):
            self._emitter.emit(self._upcall(UpcallKind.UNBLOCKED, lwp, call, duration))

    def preempted(self, lwp: LWP, code: CodeType) -> None:
        """An LWP's step is interrupted in its code."""
        if self._emitter.count(UpcallKind.PREEMPTED):
            call = Call(Site(code, 0), None, None, Detection.PREEMPTED)
            self._emitter.emit(self._upcall(UpcallKind.PREEMPTED, lwp, call, None))

    def _notice(self, kind: UpcallKind, lwp: LWP) -> None:
        if self._emitter.count(kind):
            self._emitter.emit(Upcall(kind, monotonic(), self._loop, lwp.name))

    def _upcall(self, kind: UpcallKind, lwp: LWP, call: Call, duration: float | None) -> Upcall:
        if call.task is None:
            call.task = self.task_name(lwp)
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
            call.task,
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
        return origin(sys._getframe(2) if lwp.ident == os_ident() else lwp.watch.frame(), self._bottoms)

    # ---------------------------------------------------------------- what the protocol reports (host.Voice)

    def started(self, lwp: LWP) -> None:
        """An LWP's thread runs."""
        self._notice(UpcallKind.LWP_STARTED, lwp)

    def retired(self, lwp: LWP) -> None:
        """An LWP has ended."""
        self._notice(UpcallKind.LWP_RETIRED, lwp)

    def exhausted(self, blocked: list[LWP], home: LWP | None) -> None:
        """All LWPs that there may be are blocked."""
        stuck = self.stuck(blocked)
        if self._exhaustion.is_news(frozenset(self.places(blocked))):
            # An executor's loop (it has an initializer) that is given more than it has LWPs for does what it is for.
            executors = self._carrying.pool.initialize is not None
            level = logging.INFO if executors and not stuck else logging.WARNING
            said = "all %d LWPs are blocked (max_lwps): the loop waits until one comes back%s\n%s"
            say(level, said, self._carrying.max_lwps, stuck, self.listing(blocked))
        if home is not None:
            self._notice(UpcallKind.EXHAUSTED, home)

    def refused(self, alive: int) -> None:
        """The system has no thread for another LWP."""
        if _refusals.is_news(""):
            say(logging.ERROR, "the system has no thread for another LWP beside %d: %s; %s", alive, _why(), _UNTIL)

    def granted(self) -> None:
        """The system has a thread."""
        _refusals.is_over()

    def repaired(self) -> None:
        """Nobody came for the loop, and somebody does now."""
        if not self._repaired:
            self._repaired = True
            say(logging.ERROR, "an exception had broken off a move of the loop, and nobody came for it: repaired")

    def closing(self, waits_for: list[LWP], *, left: bool) -> None:
        """The loop is closed, and waits for LWPs, or has left them behind."""
        said = "the loop is closed and waits for %d blocked LWPs:\n%s"
        if left:
            said = "Ctrl-C: the loop is closed without %d blocked steps:\n%s"
        say(logging.WARNING, said, len(waits_for), self.listing(waits_for))

    def closed(self) -> None:
        """The loop is closed."""
        self._exhaustion.is_over(for_good=True)
        _refusals.is_over()

    def forked(self, exc: BaseException) -> None:
        """A forked child ends, since its only thread was a spare."""
        say(logging.CRITICAL, "a forked child ends: %s", exc)

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

    def listing(self, lwps: list[LWP]) -> str:
        """What LWPs are blocked in, a line for each, or for each place if they are many."""
        if len(lwps) <= LISTED:
            return "\n".join(f"  {lwp.name}: {self.describe(lwp)}" for lwp in lwps)
        places = self.places(lwps)
        lines = [f"  {count} in {place}" for place, count in places.most_common(LISTED)]
        others = len(lwps) - sum(count for _, count in places.most_common(LISTED))
        return "\n".join([*lines, f"  {others} in other places"] if others else lines)

    def task_name(self, lwp: LWP) -> str | None:
        """The name of the user thread that an LWP runs.  An eager one begins inside of another's step: what asyncio
        says comes first, where it can be asked."""
        task = lwp.luggage.task
        if task is None and (lwp.ident == os_ident() or (not TASK_OF_THREAD and lwp is self._carrying.holder)):
            task = asyncio.current_task(self._loop)
        task = task or task_of(lwp)
        if task is not None:
            return task.get_name()
        owner = getattr(getattr(lwp.handle, "_callback", None), "__self__", None)
        return getattr(owner, "name", None) if hasattr(owner, "user_task") else None  # a plain callable's user thread

    @staticmethod
    def _call_of(lwp: LWP) -> Call | None:
        trap = lwp.watch.trap
        return lwp.watch.call or (trap.call if trap is not None else None)


def _is_lock(value: object) -> bool:
    """Whether something is a lock; its class is looked at, as the object may be a stand-in that runs code."""
    return hasattr(type(value), "acquire")
