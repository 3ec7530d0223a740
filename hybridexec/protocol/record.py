"""Record: who carries a loop, and who waits for it; and the primitives that change that.

Membership is the rule: what is in a record changes only under its ``mutex``, unless the line says otherwise.  Nothing
here relies on the GIL.  The primitives are called with the mutex held; each leaves the record whole.  The moves that
are made of them are in ``carrying.py``, what is asked about a record is in ``order.py``.
"""

from __future__ import annotations

import _thread
import collections
import enum
import math
from collections.abc import Callable
from typing import Any

from .._core.fields import RecordFields
from ..platform.clock import monotonic
from .handler import Handler
from .host import Host
from .lwp import LWP, Bell, LwpState

RETURN_BOUND = 0.005
"""Seconds after which a returning step is served before all else, between two steps of the others."""

HOME_BOUND = 0.05
"""Seconds after which the loop is given to a home that waits while the loop is busy elsewhere."""

FORKED_ADVICE = (
    "this event loop belongs to the parent process: os.fork() in a step leaves a child without the threads that carry "
    "it; in the child, exec another program, end with os._exit(), or start a new loop with hybridexec.run()"
)


class LoopState(enum.Enum):
    """Who executes on the loop."""

    STOPPED = "stopped"
    """``run_forever`` is not running."""
    FREE = "free"
    """Nobody executes: an LWP sits in the poll, or one that was woken is on its way."""
    HELD = "held"
    """One LWP, the *holder*, carries the loop.  Only the holder runs its Python code."""
    DRAINING = "draining"
    """The loop is being closed, and steps that were blocked finish one after the other."""
    FORKED = "forked"
    """This process is a child; the LWPs were left behind in its parent."""


class Record(RecordFields):
    """The record of one loop.

    Args:
        claimable: whether others may take the loop while an LWP polls.
        max_lwps: the most LWPs it may have.
        spare_lwps: how many are kept parked.
        idle_timeout: seconds after which others that are parked end.

    Attributes:
        host: the loop; set by whoever makes it, before anything else happens.
    """

    host: Host
    detached: set[LWP]
    holder: LWP | None
    home: LWP | None
    last: LWP | None
    lwps: set[LWP]
    parked: list[LWP]
    pollers: list[LWP]
    preempted: collections.deque[LWP]
    returning: collections.deque[LWP]
    state: LoopState
    unheld: LoopState
    waking: LWP | None

    def __init__(self, *, claimable: bool, max_lwps: int, spare_lwps: int, idle_timeout: float) -> None:
        self.claimable = claimable
        self.max_lwps = max_lwps
        self.spare_lwps = spare_lwps
        self.idle_timeout = idle_timeout

        # What the loop has to do.  The queue and the heap are the loop's, and are changed as asyncio changes its own.
        self.ready = collections.deque()
        self.timers = []  # a heap of what has a ``_when``, in the loop's time
        self.batch = iter(range(0))  # a number for each step that is still to be run before the next poll
        self.deferred = []  # steps that wait for one that is without the loop; the holder's
        self.stopping = False  # whether stop() has been requested; any thread

        # Hints: they may be out of date, and are written by any thread.
        self.due = None  # when the holder has to look up between two steps; None: never
        self.mailed = False  # there is something in the home's mailbox, which it serves also without the loop
        self.unseen = True  # the sampler may be asleep: whoever takes the loop wakes it
        self.summoned: float | None = None  # since when a signal handler waits for the home to have the loop

        self.holder = None
        self.holder_ident = None  # its thread; 0 while an LWP polls or is on its way; None: stopped
        self.home = None
        self.batch_unfinished = False  # the holder has changed in the middle of a batch, which comes before the poll
        self.handoffs = self.claims = self.wakeups = self.marks = 0  # counted for stats() and the sampler
        self.awaits = 0  # of the handoffs: to other steps' help
        self.reset(LoopState.STOPPED)

    def reset(self, state: LoopState) -> None:
        """Forget all LWPs.  The loop is new, or this process is a forked child."""
        self.mutex = self._new_mutex()
        self.inside: Callable[[], bool] = self.mutex._is_owned
        self.state = state
        self.unheld = state  # the state that the loop has when nobody executes on it
        self.last = None  # the last holder
        self.waking = None  # woken for a free loop, and on its way: one wake in flight at a time
        self.away_since = 0.0  # when the loop left home
        self.exhausted = False  # all LWPs are blocked, and that was reported
        self.refused = 0.0  # when to ask the system again for what it has refused; 0: it has not
        self.stale = False  # the events of the last poll may be out of date
        self.handler: Handler | None = None  # the signal handler that the home is in
        self.changed = Bell()  # an LWP has retired, or the home is wanted: for whoever closes the loop
        self.detached = set()  # those with a step that is without the loop; and a home that is excused
        # Those of them that wait for another step, until they find that it is over; they may be more than max_lwps.
        self.awaiting: dict[LWP, Callable[[], bool]] = {}
        self.lwps = set()
        self.starting: dict[LWP, int] = {}  # those whose thread has not come yet, and the thread that starts them
        self.pollers = []
        self.parked = []
        self.returning = collections.deque()
        self.preempted = collections.deque()

    @staticmethod
    def _new_mutex() -> Any:
        """One that knows its owner: a finalizer, or a signal handler, may run on a thread that is inside of it.

        Such code asks (``stats()``) but changes nothing: the detector leaves it alone.
        """
        return _thread.RLock()

    def is_forked(self) -> bool:
        """Whether this process is a child of the one that the LWPs live in.  Any thread, without the mutex."""
        return self.state is LoopState.FORKED

    def is_claimable(self) -> bool:
        """Whether nobody holds a loop that runs or drains."""
        return self.state is LoopState.FREE or self.state is LoopState.DRAINING

    @staticmethod
    def _wait_for(mutex: Any) -> None:
        """The compiled core has not got it at once: a signal handler that comes while it waits finds this frame."""
        mutex.acquire()

    # ---------------------------------------------------------------- the loop is taken

    def take(self, lwp: LWP) -> None:
        """The LWP of the calling thread takes the loop, or was granted it; its step, if it has one, resumes."""
        if self.holder is not lwp:
            self.hold(lwp)
        self.resume(lwp)
        with_step = lwp in self.detached
        self.host.luggage.attach(lwp, with_step=with_step)
        if with_step:
            self.detached.remove(lwp)  # last: what an exception has broken off is done once more (regain)
            while self.deferred:
                self.ready.appendleft(self.deferred.pop())  # those that have waited for its step are next
            if self.exhausted and len(self.detached) * 2 <= self.max_lwps:
                self.exhausted = False

    def hold(self, lwp: LWP) -> None:
        """The LWP is the holder, and maybe still on its way."""
        self.state = LoopState.HELD
        self.holder = lwp
        if self.last is self.home:
            self.away_since = monotonic()
        self.last = lwp
        self.claims += 1

    def resume(self, lwp: LWP) -> None:
        """The holder begins to run."""
        self.holder_ident = lwp.ident
        lwp.state = LwpState.RUNNING
        self.due = None
        home = self.home
        if self.mailed or (self.pollers and self.is_unheard()):
            self.due = -math.inf
        elif home is not lwp and home is not None:
            if home.interrupt is not None or self.summoned is not None:
                self.due = -math.inf
            elif home.state is LwpState.PARKED:
                self.due = self.away_since + HOME_BOUND
        if self.returning:
            self.expect(self.returning[0].since + RETURN_BOUND)

    def expect(self, when: float) -> None:
        """The holder has to look up between two steps, from a time on."""
        if self.due is None or when < self.due:
            self.due = when

    # ---------------------------------------------------------------- the loop is given up

    def split_batch(self) -> None:
        """A finalizer blocks, after the step that it is a part of: the rest of the batch is for whoever takes the loop.

        The LWP's own turn ends when the finalizer has returned.
        """
        own, self.batch = self.batch, iter(range(self.batch.__length_hint__()))
        collections.deque(own, maxlen=0)

    def free(self) -> None:
        """Nobody holds the loop any more."""
        holder = self.holder
        if holder is not None:
            self.host.luggage.detach(holder, with_step=holder in self.detached)
        self.state = self.unheld
        self.holder = None
        self.holder_ident = 0

    def grant(self, target: LWP) -> LWP | None:
        """Give the loop to an LWP that sleeps or is on its way.  Returns it if it has to be woken."""
        holder = self.holder
        if holder is not None:
            self.host.luggage.detach(holder, with_step=holder in self.detached)
        self.unqueue(target)
        self.hold(target)
        return self.rouse(target)

    # ---------------------------------------------------------------- LWPs are queued and woken

    def rouse(self, lwp: LWP) -> LWP | None:
        """An LWP has to be awake.  Returns it if it has to be woken."""
        if lwp.state is LwpState.WOKEN:
            return None
        lwp.state = LwpState.WOKEN
        self.wakeups += 1
        return lwp

    def awaken(self, lwp: LWP) -> LWP | None:
        """Choose an LWP to be woken for a free loop.  Returns it if it has to be woken."""
        self.waking = lwp
        return self.rouse(lwp)

    def arrived(self, lwp: LWP) -> None:
        """An LWP that was woken is awake."""
        if self.waking is lwp:
            self.waking = None

    def unqueue(self, lwp: LWP) -> None:
        """Take an LWP out of all queues."""
        for queue in (self.parked, self.pollers, self.returning, self.preempted):
            if lwp in queue:
                queue.remove(lwp)

    def queue_as_returning(self, lwp: LWP, since: float) -> None:
        """Queue an LWP for the loop: last, or first of all if ``since`` is minus infinity."""
        lwp.since = since
        lwp.state = LwpState.RETURNING
        if since == -math.inf:
            self.returning.appendleft(lwp)
        else:
            self.returning.append(lwp)
        self.expect(since + RETURN_BOUND)

    def park(self, lwp: LWP) -> None:
        """Queue an LWP that has no step."""
        if lwp.bound_steps or (self.summoned is not None and lwp is self.home):
            # Steps of bound user threads, or a signal handler, wait for this LWP.
            self.queue_as_returning(lwp, monotonic())
            return
        lwp.since = monotonic()
        lwp.state = LwpState.PARKED
        if lwp is self.home:
            self.expect(self.away_since + HOME_BOUND)
        else:
            self.parked.append(lwp)

    def is_home_wanted(self) -> bool:
        """Whether the home has to hold the loop: to stop it, to raise, or to call a signal handler."""
        home = self.home
        return home is not None and (self.stopping or self.summoned is not None or home.interrupt is not None)

    def is_unheard(self) -> bool:
        """Whether somebody who polls has to be told something: a byte in the self-pipe may have been another's."""
        home = self.home
        if home is not None and home in self.pollers:
            if self.mailed or self.is_home_wanted():
                return True
            if self.holder is not None and monotonic() - self.away_since >= HOME_BOUND:
                return True
        for poller in self.pollers:  # noqa: SIM110  # there is one as a rule: a generator costs more than the look
            if poller.bound_steps:
                return True
        return False
