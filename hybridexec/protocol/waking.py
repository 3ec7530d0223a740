"""Waking: who comes next for a loop that was set free, how it is told, and how an LWP sleeps until it holds the loop.

Invariant: **FREE implies a poller or a wake in flight**, unless every LWP that may exist is blocked (exhaustion).
Whoever sets the loop FREE calls ``successor`` under the same mutex, and does what it says (``send``) without it.  A
woken LWP that finds the loop HELD leaves it to the holder, which sets it FREE in its turn.
"""

from __future__ import annotations

import enum
import math
from typing import Any

from ..platform.clock import monotonic
from ..platform.threads import os_ident
from . import order
from .lwp import LWP, WAITING, LwpState
from .pool import Pool
from .record import FORKED_ADVICE, HOME_BOUND, RETURN_BOUND, LoopState, Record

HOME_NAP = 0.1
"""Seconds that the home sleeps at a time.  A signal that comes between CPython's last look and the system call does not
end that call; its handler is called after the nap at the latest."""

REFUSED_PAUSE = 0.1
"""Seconds after which the system is asked again for a thread or memory that it has refused, if nobody else can come."""


class Action(enum.Enum):
    """What has to be done for a free loop, when it is not to wake an LWP."""

    BREAK_POLL = "break poll"
    EXHAUSTED = "exhausted"


class Waking(Record):
    """A record whose LWPs can be woken, started, and put to sleep.  The arguments are the record's."""

    pool: Pool

    def __init__(self, **options: Any) -> None:
        self.pool = Pool(self)
        super().__init__(**options)

    # ---------------------------------------------------------------- who is next

    def successor(self, *, grow: bool = True) -> LWP | Action | None:
        """Choose who has to be told that the loop is free.  The mutex is held.

        Args:
            grow: whether it may be a new LWP.
        """
        returning = self.returning
        if returning and order.is_late_return(self, monotonic()):
            return self.grant(returning[0])
        if self.waking is not None:
            return None
        if returning:
            return self.awaken(returning[0])
        if self.unheld is not LoopState.FREE:
            return self.grant(self.preempted[0]) if self.preempted else None
        home = self.home
        if self.pollers:
            late = self.timers and order.next_deadline(self) < order.soonest_poll(self)
            if not late and not self.preempted and not self.ready and not self.stopping:
                return Action.BREAK_POLL if self.is_unheard() else None
        if home is not None and home.state is LwpState.PARKED:
            return self.awaken(home)
        if self.parked:
            return self.awaken(self.parked.pop())
        if self.pollers:
            return Action.BREAK_POLL
        if len(self.detached) < len(self.lwps):
            return None  # an LWP that is not blocked is on its way, to park or from its start, and will look
        new = self._new() if grow else None
        if new is not None:
            self.waking = new
            return new
        if self.preempted:
            return self.grant(self.preempted[0])
        if self.exhausted:
            return None  # already reported
        self.exhausted = True
        return Action.EXHAUSTED

    def _new(self) -> LWP | None:
        if len(self.lwps) - len(self.awaiting) >= self.max_lwps:
            return None
        lwp = self.pool.new()
        if lwp is None:
            self.refused = monotonic() + REFUSED_PAUSE
        else:
            lwp.since = monotonic()
            self.starting[lwp] = os_ident()
        return lwp

    def poke_holder(self) -> Action | None:
        """An LWP has queued: a holder that polls while it holds has to come out of its poll.  The mutex is held."""
        holder = self.holder
        return Action.BREAK_POLL if holder is not None and holder.state is LwpState.POLLING else None

    def offer(self) -> LWP | Action | None:
        """An LWP has queued: who has to be told of it, whether the loop is free or held.  The mutex is held."""
        return self.successor() if self.is_claimable() else self.poke_holder()

    # ---------------------------------------------------------------- how it is told; without the mutex

    def send(self, successor: LWP | Action | None) -> None:
        """Tell whoever ``successor`` has chosen."""
        if successor is None:
            return
        if successor is Action.BREAK_POLL:
            self.host.turns.break_poll()
        elif successor is Action.EXHAUSTED:
            with self.mutex:
                blocked, home = list(self.detached), self.home
            self.host.voice.exhausted(blocked, home)
        elif successor.launched:
            successor.wake()
        elif not self.pool.start(successor):
            self.bereft()

    def bereft(self, *, grow: bool = False) -> None:
        """The system has no thread to give: whoever relied on it does without.

        Args:
            grow: the system is to be asked again.
        """
        with self.mutex:
            if grow:
                self.refused, self.exhausted = 0.0, False
            else:
                self.refused = monotonic() + REFUSED_PAUSE
            successor = self.successor(grow=grow) if self.is_claimable() else None
            if successor is Action.EXHAUSTED:  # true, but Pool.start() has already said what the loop waits for
                successor, self.exhausted = None, False
        self.send(successor)

    def hail(self) -> bool:
        """Work was made ready from outside: have a parked LWP take a free loop, and let the one that polls poll on.

        A step that blocks then finds a poller in its place, and wakes nobody.  Whoever takes a free loop looks at what
        is ready after that, so once the loop is seen free under the mutex the work is seen, too.

        Returns:
            Whether somebody comes; if not, the caller has to end the poll.
        """
        with self.mutex:
            if self.state is not LoopState.FREE:
                return False
            if self.waking is not None:
                return True
            if not self.parked:
                return False
            lwp = self.awaken(self.parked.pop())
        self.send(lwp)
        return True

    def replenish(self) -> None:
        """Start an LWP if fewer are parked than ``spare_lwps``: the next block shall find one.  Any thread."""
        if len(self.parked) + len(self.pollers) >= self.spare_lwps:
            return
        with self.mutex:
            if self.unheld is not LoopState.FREE:
                return
            ready = len(self.lwps) - len(self.detached)  # parked, polling, or on their way to that
            # One that was woken for a loop that somebody else has taken since will park again.
            ready -= len({self.holder or self.waking, self.home} - self.detached - {None})
            if ready >= self.spare_lwps:
                return
            lwp = self._new()
        self.send(lwp)

    # ---------------------------------------------------------------- the home is wanted

    def mail_home(self) -> None:
        """Something was put into the home's mailbox: see that the home looks.  Any thread."""
        wake: LWP | Action | None = Action.BREAK_POLL  # it may be about to poll
        with self.mutex:
            self.mailed = True
            self.expect(-math.inf)
            home = self.home
            if home is not None and home.state in WAITING:
                wake = self.rouse(home)
        self.changed.ring()
        self.send(wake)

    def recall(self, now: float) -> None:
        """See that a home which polls is told, once the loop has been away for long.  The sampler asks now and then."""
        if self.holder is not self.home and now - self.away_since >= HOME_BOUND:
            self.due = -math.inf

    def serve(self) -> None:
        """Do what others have asked of the home.  The home calls this, also while it is without the loop."""
        self.mailed = False
        try:
            self.host.home_side.serve()
        except BaseException:
            self.mailed = True  # what is left is served when the home looks the next time
            raise

    def interrupt_home(self, exc: BaseException) -> None:
        """A signal handler has raised on the home, in the middle of the protocol: raise it once the loop is held."""
        home = self.home
        assert home is not None
        self.note_interrupt(home, exc)
        home.wake()  # it may sleep, or poll
        if home.state is LwpState.POLLING:
            self.host.turns.break_poll()

    def note_interrupt(self, home: LWP, exc: BaseException) -> None:
        """Keep what a signal handler has raised, to be raised when the loop is held."""
        with self.mutex:
            if home.interrupt is None:
                home.interrupt = exc
            self.expect(-math.inf)

    # ---------------------------------------------------------------- an LWP sleeps

    def wait(self, lwp: LWP, state: LwpState) -> None:
        """Sleep, in the queue of RETURNING or of PREEMPTED, until the loop is held.

        Raises:
            RuntimeError: the process is a forked child.
        """
        while True:
            if self.mailed and lwp is self.home:
                self.serve()
            try:
                if not lwp.sleep(HOME_NAP if lwp is self.home else -1):
                    continue
            except BaseException as exc:
                # A signal handler raised, on the main thread.  It is raised again where the step resumes.
                # The queue of the preempted has no claim; the home is granted the loop for its interrupt all the same.
                # It may have come when the ring had been heard already: so look why, as after any ring.
                self.note_interrupt(lwp, exc)
            with self.mutex:
                self.arrived(lwp)
                if self.state is LoopState.FORKED:
                    raise left_behind(lwp)
                if self.holder is lwp:
                    self.take(lwp)
                    return
                if self.is_claimable() and state is LwpState.RETURNING:
                    self.unqueue(lwp)
                    self.take(lwp)
                    return
                lwp.state = state
                queue = self.returning if state is LwpState.RETURNING else self.preempted
                if lwp not in queue:  # it was excused
                    queue.append(lwp)
                    self.expect(lwp.since + RETURN_BOUND)
                successor = self.offer()
            self.send(successor)


def left_behind(lwp: LWP) -> RuntimeError:
    """What a step gets that resumes in a forked child."""
    error = RuntimeError(FORKED_ADVICE)
    lwp.meant = id(error)
    return error
