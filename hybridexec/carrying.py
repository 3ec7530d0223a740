"""Carrying: which LWP carries the loop, and how the loop moves.  The whole protocol is in this file.

The loop's states (:class:`LoopState`), all changed under ``mutex``, a lock of this object's own; nothing here is right
only because of the GIL::

                     begin                 leave, idle                    close
        STOPPED  --------------->  HELD  <------------->  FREE      STOPPED ------> DRAINING
                 <---------------        take, grant                DRAINING <----> HELD  (steps still blocked)
                     finish

* **HELD**: one LWP, the *holder*, carries the loop.  Only the holder runs its Python code.
* **FREE**: nobody executes.  Either an LWP sits in the poll, or one that was woken is on its way.
* **STOPPED**: ``run_forever`` is not running.  **DRAINING**: the loop is being closed, and steps that were blocked
  finish one after the other.  **FORKED**: this process is a child, the LWPs were left behind in its parent.

**Claim, do not grant** (leader/followers, with barging).  Whoever finds the loop FREE and needs it takes it; nobody is
named beforehand, so nobody idles while a chosen one is still on its way.  The moves:

1. *Idle.*  A holder with nothing to run sets the loop FREE and polls.  When its poll returns and the loop is still
   FREE it takes it; if another was faster, it drops its events (they are level-triggered: the kernel still has them)
   and parks.  If the loop was held by others meanwhile, its events may be stale (a file descriptor may have been
   closed and reused), so it polls once more, for no time at all, while it holds.
2. *Leave.*  A step blocks: the LWP itself (a sure call), or the sampler on its behalf (a marked or a trapped one),
   sets the loop FREE.  If somebody polls, with an early enough deadline, and nothing is ready, nobody is woken: the
   cheapest handoff there is.  Else one LWP is woken (``waking``: one wake in flight at a time).
3. *Return.*  The call is over: the LWP takes the loop if it is FREE, else it queues in ``returning`` and sleeps.
   Whoever frees the loop wakes the head of the queue.  One that has waited for ``RETURN_BOUND`` is served before all
   else: the holder *grants* it the loop between two steps (rule 3), and nobody barges in front of it.
4. *Preempted.*  A step that overran its slice queues in ``preempted``; it gets the loop by grant at the end of a
   batch, when nothing else is ready or ``PREEMPTED_BOUND`` batches have gone by: that is its turn.
5. *Home.*  A holder that is not the home and is about to idle wakes a parked home and parks itself; after
   ``HOME_BOUND`` of work elsewhere, the home is granted the loop between two steps (rule 4).  A loop that shall stop
   goes home at once; while the home is blocked it goes on elsewhere, or what blocks the home might never end.
6. *Wait.*  An LWP without a step and without the loop follows: if nobody polls, it does (so that the next block needs
   no wake-up), and parks when it loses.  The home serves its mailbox whenever it waits.
7. *Excused.*  A home that polls, or waits, and blocks there in a signal handler, cannot be relied on: the sampler takes
   it out of all that the others look at (BLOCKED), and frees the loop if it was the home's.  When the handler is over
   the home does again what it did: it polls (with the loop, if it had it then), or looks why it was woken.
8. *Summoned.*  A signal handler is the loop's code, and runs where the home holds the loop (``handling.py``).  A home
   whose step is without the loop *borrows* it in the middle of its call: it queues first of all, and leaves again.  One
   without a step is summoned: it queues as one that returns, and calls the handler before anything else.  A step that
   computes meanwhile *lends* the loop to a home that waits, and is the first to get it back.

**Engines that cannot be claimed** (``face.claimable``).  All this takes for granted that a poll is a mere wait, during
which others may use the loop.  uvloop's is not: when its wait is over, ``uv_run`` goes on with the loop's structures
before it asks for the GIL; nor is one that does not see what others register meanwhile (``select`` and ``poll``, where
there is neither epoll nor kqueue).  With such an engine the moves that have to do with the poll are others:

1. *Idle.*  A holder with nothing to run, for whom nobody waits, polls **while it holds**: HELD, and the LWP is POLLING.
   If somebody waits (a parked home, one that returns), the holder sets the loop FREE, wakes that one, and parks.
2. *Leave.*  Nobody can be in the poll, since a step was running; so an LWP has to be woken for each block.
3. *Queue and poke.*  Whoever needs the loop while the holder polls (a returning step, a home that parks or that a
   signal handler has interrupted, an LWP with kept steps) queues, and pokes the poller (``_poked``).  Its poll
   returns, it runs what that has brought, finds somebody in a queue when it is about to idle, and does as in 1.
6. *Wait.*  There are no followers.

FREE then implies a wake in flight.  A poke cannot be lost: the holder looks at the queues and becomes POLLING under
the mutex, whoever queues later sees it POLLING under the mutex, and the byte in the self-pipe stays there until a poll
has read it.  (A poll that takes no time needs none: the queues are looked at afterwards.)  Inside of such a poll the
engine calls the program's protocols; a call that blocks there is no *leave*: the LWP goes on being the holder, in the
state that it is in, and ``reactions.py`` only tells.

Invariant: **FREE implies a poller or a wake in flight**, unless every LWP that may exist is blocked (exhaustion).  It
holds because everyone who sets FREE calls ``_successor`` under the same mutex, and a woken LWP that finds the loop
HELD leaves it to the holder, who will set it FREE in its turn.

Races that are possible, and why they are safe:

* *Return against retake.*  The sampler retakes the loop from a MARKED call just when it returns.  Both change the
  state under the mutex: either the LWP is RUNNING again and the sampler finds no mark, or it is BLOCKED and queues.
* *Two wakers.*  Only who changes a sleeper's state to WOKEN under the mutex releases its lock (``lwp.py``).
* *A wake in flight, and a barger.*  The woken LWP finds the loop HELD and goes back to its place in the queue.
* *A signal handler raises in the middle of all this*, on the home.  Nothing comes up here: the exception is put off
  (``shield.py``), a home that sleeps or polls is woken, and it is raised when the loop is held again, which the home
  then gets before all others: in the home's step, in a main task that is blocked elsewhere, or out of the run.  Out of
  ``sleep`` it comes all the same if nobody stands in for the handler.
* *Work that arrives while the loop is FREE* writes to the self-pipe, which ends somebody's poll.

* *A poke that another takes.*  A byte in the self-pipe wakes all who poll, but one that has not run yet finds the pipe
  empty again if the holder was faster.  So whoever has something to tell a poller (mail, a kept step) tells it again
  whenever the loop is set free or a step is over (``_unheard``).  A home that polls while the loop is busy elsewhere is
  told by the sampler's reminder (``recall``), so that steps need not look for the time.

**Exceptions.**  An exception can come up at any statement, on the home, a spare, or the sampler: memory is refused, the
recursion limit is near, a lock cannot be made, a tracer or a log handler raises.  No ``try`` stands around each.  What
holds is closed once, at the bottom:

* *Before* a move changes anything it has what it might be refused (``Pool.prepare``).  A move that is refused is not
  begun: the loop stays with the step, as asyncio's does.
* An exception that goes up *into a step* finds the loop held: whoever lets it go up calls ``hold_again`` first.
* One that comes up on a *spare* outside of a step ends the run with it (``Face.failed``): the spare takes the loop once
  more and stops it, or its thread ends, and ``bury`` takes it out of all that the others look at.
* One on the *home* outside of a step is raised out of the run, once ``regain`` has got the loop back.
* One on the *sampler* in the middle of a move is followed by ``repair``.  The sampler itself continues.
* All four make the record whole by ``_mend``: the state of each LWP is what its own thread has set last, and is true;
  queues, holder and wakes in flight are derived from it.  Whoever is WOKEN is told again: a ring too many only makes a
  sleep short.  What nobody has noticed the sampler finds: a loop that is free, or granted, and for which nobody comes
  from one look to the next (``check``).

Rejected: the *baton* (the owner names its successor and waits): two directed wake-ups per block, and nobody runs
while a thread is on its way.  Rejected: a pool shared by loops; nothing is gained but a second lock.
"""

from __future__ import annotations

import _thread
import collections
import enum
import math
import weakref
from collections.abc import Callable
from types import CodeType
from typing import TYPE_CHECKING

from .clock import monotonic
from .face import Face
from .handling import LAST_BOUND, Turn
from .identity import os_ident, os_thread
from .lwp import IN_POLL, LWP, START_PATIENCE, WAITING, Bell, LwpState
from .pool import Pool

if TYPE_CHECKING:
    import asyncio

    from .detector.calls import Call
    from .handling import Handler
    from .reactions import Reactions

RETURN_BOUND = 0.005
"""Seconds after which a returning step is served before all else, between two steps of the others."""

HOME_BOUND = 0.05
"""Seconds after which the loop is given to a home that waits while the loop is busy elsewhere."""

HOME_NAP = 0.1
"""Seconds that the home sleeps at a time.  A signal that comes between CPython's last look and the system call does not
end that call; its handler is called after the nap at the latest."""

REFUSED_PAUSE = 0.1
"""Seconds after which the system is asked again for a thread or memory that it has refused, if nobody else can come."""

PREEMPTED_BOUND = 4
"""A preempted step gets its turn when nothing else is ready, or after so many batches at the latest."""

FORKED_ADVICE = (
    "this event loop belongs to the parent process: os.fork() in a step leaves a child without the threads that carry "
    "it; in the child, exec another program, end with os._exit(), or start a new loop with hybridexec.run()"
)

_STEPS = (LwpState.RUNNING, LwpState.MARKED, LwpState.BLOCKED)

_EXECUTING = (LwpState.RUNNING, LwpState.MARKED, LwpState.POLLING)
"""The states of a holder that is not on its way."""

_HOLDING = (*_EXECUTING, LwpState.WOKEN)
"""The states that a holder can be in."""


class LoopState(enum.Enum):
    """Who executes on the loop.  Changes only under the mutex."""

    STOPPED = "stopped"
    FREE = "free"
    HELD = "held"
    DRAINING = "draining"
    FORKED = "forked"


class _Action(enum.Enum):
    """What has to be done for a free loop, when it is not to wake an LWP."""

    POKE = "poke"
    EXHAUSTED = "exhausted"


class Carrying:
    """Who carries one loop.

    Args:
        face: the loop.
        max_lwps: the most LWPs it may have.
        spare_lwps: how many are kept parked.
        idle_timeout: seconds after which others that are parked end.
    """

    def __init__(self, face: Face, *, max_lwps: int, spare_lwps: int, idle_timeout: float) -> None:
        self._face = face
        self._max_lwps = max_lwps
        self._spare_lwps = spare_lwps
        self._idle_timeout = idle_timeout
        self._claimed_polls = face.claimable  # others may take the loop while an LWP polls
        self._pool = Pool(face, self)
        self.reactions: Reactions  # what the loop does about blocks, for the detector
        self.runner_codes: frozenset[CodeType]  # the code whose frames call the callbacks
        self.due: float | None = None  # when the holder has to call boundary() between two steps; None: never
        self.amid = False  # the holder has changed in the middle of a batch: its rest comes before the next poll
        self.holder: LWP | None = None
        self.holder_ident: int | None = None  # its thread; 0 while somebody polls or is on the way; None: stopped
        self.home: LWP | None = None
        self.handoffs = self.claims = self.wakeups = self.marks = 0  # counted for stats() and the sampler
        self._reset(LoopState.STOPPED)

    def _reset(self, state: LoopState) -> None:
        # One that knows its owner: a finalizer, or a signal handler, may run on a thread that is inside of it.  Such
        # code asks (stats()) but changes nothing: the detector leaves it alone.
        self.mutex = _thread.RLock()
        self.inside: Callable[[], bool] = self.mutex._is_owned  # type: ignore[attr-defined]
        self.state = state
        self._rest = state  # the state that the loop has when nobody executes on it
        self._last: LWP | None = None  # the last holder
        self._former: LWP | None = None  # the home of the last run
        self._absent: dict[int, LWP] = {}  # homes of earlier runs that user threads are bound to, by their thread
        self._waking: LWP | None = None
        self._mail = False  # there is something in the home's mailbox
        self._away_since = 0.0  # when the loop left home
        self._exhausted = False
        self._refused = 0.0  # when to ask the system again for what it has refused; 0: it has not
        self._batches = 0  # since a preempted step had its turn
        self.changed = Bell()  # somebody has retired, or there is mail: for who closes the loop
        self._stale = False  # the events of the last poll may be out of date
        self.handler: Handler | None = None  # the signal handler that the home is in
        self.summoned: float | None = None  # since when a signal handler waits for the home to have the loop
        self.detached: set[LWP] = set()  # those with a step that is without the loop; and a home that is excused
        self.lwps: set[LWP] = set()
        self._starting: dict[LWP, int] = {}  # those whose thread has not come yet, and the thread that starts them
        self.pollers: list[LWP] = []
        self.parked: list[LWP] = []
        self.returning: collections.deque[LWP] = collections.deque()
        self.preempted: collections.deque[LWP] = collections.deque()

    # ---------------------------------------------------------------- the home's part

    def begin(self) -> LWP:
        """The calling thread becomes the home and holds the loop.

        Raises:
            RuntimeError: the process was forked, and the loop's LWPs are in the parent.
        """
        ident = os_ident()
        with self.mutex:
            if self.state is LoopState.FORKED:
                raise RuntimeError(FORKED_ADVICE)
            # A home that comes back is the same LWP: user threads may be bound to it.
            home = self._former
            if home is None or home.ident != ident:
                if home is not None and home.bound_tasks:
                    self._absent[home.ident] = home
                home = self._former = self._absent.pop(ident, None) or LWP(self, os_thread().name)
            home.adopt()
            home.handle = None
            home.alert = home.moved = False
            self.lwps.add(home)
            self.home = home
            self._rest = LoopState.FREE
            self.amid = False
            self._face.gives(home)  # what its thread has is the loop's
            self._take(home)
        return home

    def finish(self, home: LWP) -> None:
        """The home, which holds the loop, stops it.  Steps that are still blocked wait for the next run, or close."""
        try:
            with self.mutex:
                if self.state is not LoopState.FORKED and self.home is not None:
                    self.lwps.discard(home)
                    home.handle = None
                    self._rest = self.state = LoopState.STOPPED
                    self.holder = self.holder_ident = self.home = self._last = None
        finally:
            home.release()

    def carry(self, lwp: LWP) -> None:
        """Carry the loop in turn with the other LWPs: until it stops (the home), or the LWP retires (a spare)."""
        face = self._face
        held = lwp is self.home  # begin() has taken it
        while True:
            if not held and not self._obtain(lwp):
                return
            held = True
            if lwp is self.home:
                if self.summoned is not None:
                    face.catch_up(lwp)
                    if not self.boundary(lwp):  # a step has lent the loop
                        held = False
                        continue
                if self._mail:
                    self._serve()
                if lwp.interrupt is not None:
                    interrupt, lwp.interrupt = lwp.interrupt, None
                    if not self._face.passes_on(interrupt):
                        raise interrupt
            elif self._rest is not LoopState.FREE:
                self._retire(lwp)
                return
            if self.amid:
                events = None
            elif (timeout := face.timeout()) == 0 or lwp.kept or self.preempted:
                events = face.select(0)
            elif len(self.lwps) == 1:
                # Nobody else could take the loop, and nobody else comes into being but through a step of its own.
                lwp.state = LwpState.POLLING
                self.holder_ident = 0
                events = face.select(timeout)
                self.holder_ident = lwp.ident
                lwp.state = LwpState.RUNNING
                face.taken(lwp)
                if self._stale:  # it was excused meanwhile
                    self._stale = False
                    events = face.select(0)
            elif not self._claimed_polls:
                if self._keep_idle(lwp):
                    events = face.select(timeout)
                    self._kept_idle(lwp)
                elif self._obtain(lwp, asleep=True):
                    continue
                else:
                    return
            elif self._idle(lwp):
                events = face.select(timeout)
                if not self._polled(lwp):
                    held = False
                    continue
                if self._stale:
                    events = face.select(0)
            elif self._obtain(lwp, asleep=True):
                continue
            else:
                return
            if self.summoned is not None and lwp is self.home:
                continue  # a signal ended the poll: its handler comes first, and the next poll finds the events again
            held = face.turn(lwp, events)
            if not held or self.amid:
                continue
            if face.stopping() and self.home is not None:
                if lwp is self.home:
                    return
                held = self._stop(lwp)
            if held and self.preempted:
                held = self._serve_preempted(lwp)

    # ---------------------------------------------------------------- after an exception in the middle of a move

    def hold_again(self, lwp: LWP) -> None:
        """An exception is about to go up into the LWP's step, which must not run without the loop."""
        if self.holder is not lwp or lwp.state not in _EXECUTING or lwp in self.detached:
            self.regain(lwp)
        elif lwp.state is LwpState.MARKED:
            with self.mutex:
                if lwp.state is LwpState.MARKED:
                    lwp.state = LwpState.RUNNING  # what has marked it has failed

    def regain(self, lwp: LWP) -> None:
        """Make sure that the LWP of the calling thread holds the loop, wherever an exception has found it.

        The exception goes up into the LWP's step, or out of the home's run: neither may be without the loop.
        """
        with self.mutex:
            if self.state is LoopState.FORKED:
                lwp.state = LwpState.RUNNING
                return
            self._unqueue(lwp)
            if self._waking is lwp:
                self._waking = None
            granted = self.holder is lwp or self.state is self._rest or not self._is_sound(self.holder)
            if granted:
                self._take(lwp)
            else:
                lwp.state = LwpState.RETURNING
                lwp.since = -math.inf
                self.returning.appendleft(lwp)
                self._expect(-math.inf)
            wake = self._mend()
        for each in wake:
            self._send(each)
        if not granted:
            self._wait(lwp, LwpState.RETURNING)

    def bury(self, lwp: LWP, exc: BaseException) -> None:
        """The thread of a spare ends by an exception, wherever that has found it: so does the run.

        Its own thread calls this last of all; or anybody who has found that the thread has ended without doing so.
        """
        try:
            self._face.failed(exc)
        finally:
            with self.mutex:
                wake: list[LWP | _Action] = []
                if lwp in self.lwps or self.holder is lwp:
                    self._unqueue(lwp)
                    self._starting.pop(lwp, None)
                    self.lwps.discard(lwp)
                    self.detached.discard(lwp)
                    if self.state is not LoopState.FORKED:
                        lwp.state = LwpState.RETIRED
                        self._face.orphaned(lwp)
                        self._pool.retires(lwp)
                lwp.state = LwpState.RETIRED
                if self.state not in (LoopState.FORKED, LoopState.STOPPED):
                    wake = self._mend()
            for each in wake:
                self._send(each)
            self._face.poke()  # the run ends: whoever polls has to look
            self.changed.ring()

    def repair(self) -> bool:
        """A move was broken off by an exception: see that nobody waits for what does not come.  Any thread.

        Returns:
            Whether an LWP was found whose thread has ended, or the loop was free with nobody on the way to it.
        """
        found = self.bury_ended()
        for lwp in list(self._starting):
            if monotonic() - lwp.since > START_PATIENCE:
                self.disown(lwp)
        with self.mutex:
            if self.state in (LoopState.STOPPED, LoopState.FORKED):
                return found
            lost = not self._is_sound(self.holder) and self._waking is None and not self.pollers
            wake = self._mend()
        for each in wake:
            self._send(each)
        return found or (lost and bool(wake))

    def bury_ended(self) -> bool:
        """Bury the spares whose threads have ended without a word.  Returns whether there were any."""
        # One that retires is no longer among the LWPs by the time its thread has ended: so that is looked at last.
        ended = [lwp for lwp in list(self.lwps) if lwp is not self.home and lwp.has_ended() and lwp in self.lwps]
        for lwp in ended:
            self.bury(lwp, RuntimeError(f"the thread of {lwp.name} has ended"))
        return bool(ended)

    def _mend(self) -> list[LWP | _Action]:
        """Make the record whole.  What each LWP's own state says is true; all else follows.  Mutex held.

        Returns:
            Who has to be told: also those that were told before, as the exception may have come first.
        """
        if not self._is_sound(self.holder):
            self.holder = None
        if self.holder is None:
            self.state = self._rest
            self.holder_ident = None if self._rest is LoopState.STOPPED else 0
        else:
            self.state = LoopState.HELD
        waking = self._waking
        if waking is not None and (waking not in self.lwps or waking.state is not LwpState.WOKEN):
            self._waking = None
        here = os_ident()
        wake: list[LWP | _Action] = []
        for lwp in list(self.lwps):
            starter = self._starting.get(lwp)
            if starter is not None:
                if starter == here and not lwp.launched:
                    wake.append(lwp)  # this thread was about to start it
            elif lwp.state is LwpState.WOKEN:
                wake.append(lwp)
            else:
                self._requeue(lwp)
        successor = self._successor() if self._claimable() else self._poked()
        if successor is not None and successor not in wake:
            wake.append(successor)
        return wake

    def _is_sound(self, holder: LWP | None) -> bool:
        """Whether a holder is one: it runs, polls, or is on its way."""
        return holder is not None and holder in self.lwps and holder.state in _HOLDING

    def _requeue(self, lwp: LWP) -> None:
        """See that an LWP which waits is in the queue that its state names, and in no other."""
        for state, queue in (
            (LwpState.PARKED, self.parked),
            (LwpState.RETURNING, self.returning),
            (LwpState.PREEMPTED, self.preempted),
        ):
            wanted = lwp.state is state and not (lwp is self.home and state is LwpState.PARKED)
            if wanted and lwp not in queue:
                queue.append(lwp)
            elif not wanted and lwp in queue:
                queue.remove(lwp)
        if lwp.state is not LwpState.POLLING and lwp in self.pollers:
            self.pollers.remove(lwp)
        if lwp.state is LwpState.BLOCKED:
            self.detached.add(lwp)
        elif lwp.state is LwpState.PARKED and lwp.kept:
            self._unqueue(lwp)
            self._park(lwp)

    def check(self, seen: object) -> object:
        """Look whether anybody comes for the loop; repair it if not.  The sampler calls this at each look.

        Args:
            seen: what it returned the last time.

        Returns:
            Where the loop stands if nobody executes on it: who does not come until the next look never does.
        """
        holder = self.holder
        if holder is not None and holder.state is not LwpState.WOKEN and not holder.has_ended():
            if holder.state in _HOLDING:
                return None
        elif holder is None and self._is_at_rest():
            return None
        stands = holder, self._waking, self.state, self.claims, self.wakeups, self.handoffs
        if self._refused:
            self._bereft(grow=True)
        elif stands == seen and self.repair():
            self._pool.log_repaired()
        return stands

    def _is_at_rest(self) -> bool:
        """Whether a loop that nobody holds may stay so: it is polled, all is blocked, or it is stopped."""
        if self.returning or self._waking is not None:
            return False
        if self.pollers:
            return not self._face.has_work()
        if self._refused and monotonic() >= self._refused:
            return False
        return self._exhausted or self.state is not LoopState.FREE

    def expects(self) -> bool:
        """Whether somebody has to come for the loop: until then the sampler does not sleep deeply."""
        holder = self.holder
        return holder.state is LwpState.WOKEN if holder is not None else not self._is_at_rest()

    # ---------------------------------------------------------------- between two steps

    def boundary(self, lwp: LWP) -> bool:
        """Between two steps, when it is ``due``: give the loop to whoever has waited long enough.

        Returns:
            Whether the LWP still holds the loop.
        """
        if lwp is self.home and self._mail:
            self._serve()
        with self.mutex:
            target = self._due(lwp, monotonic())
            poke = target is None and self._unheard()
            if target is None:
                self._want(lwp)
            else:
                lwp.state = LwpState.WOKEN
                self.amid = self._face.unfinished()
                target = self._grant(target)
                lwp = None  # type: ignore[assignment]
        self._send(_Action.POKE if poke else target)
        return lwp is not None

    def _due(self, lwp: LWP, now: float) -> LWP | None:
        """Who has to get the loop now, whatever is ready.  Mutex held."""
        home = self.home
        if home is not None and home is not lwp and home.state in WAITING:
            if self._face.stopping() or home.interrupt is not None or self.summoned is not None:
                return home  # it has to stop the loop, to raise, or to call a signal handler
            # Counted from when the loop left it: it may have polled since, or been woken in vain.
            if home.state is LwpState.PARKED and now - self._away_since >= HOME_BOUND:
                return home
        if self.returning and now - self.returning[0].since >= RETURN_BOUND:
            return self.returning[0]
        return None

    def _unheard(self) -> bool:
        """Whether somebody who polls has to be told something.  Mutex held."""
        if not self.pollers:
            return False
        home = self.home
        if home is not None and home in self.pollers:
            if self._mail or home.interrupt is not None or self.summoned is not None:
                return True
            if self.holder is not None and monotonic() - self._away_since >= HOME_BOUND:
                return True
        for poller in self.pollers:  # noqa: SIM110  # there is one as a rule: a generator costs more than the look
            if poller.kept:
                return True
        return False

    def _want(self, lwp: LWP) -> None:
        """Set when the holder has to look between its steps.  Mutex held."""
        self.due = None
        home = self.home
        if self._mail or self._unheard():
            self.due = -math.inf
        elif home is not lwp and home is not None:
            if home.interrupt is not None or self.summoned is not None:
                self.due = -math.inf
            elif home.state is LwpState.PARKED:
                self.due = self._away_since + HOME_BOUND
        if self.returning:
            self._expect(self.returning[0].since + RETURN_BOUND)

    def _expect(self, when: float) -> None:
        """The holder has to look between its steps, from a time on.  Mutex held."""
        if self.due is None or when < self.due:
            self.due = when

    def recall(self, now: float) -> None:
        """See that a home which polls is told, once the loop has been away for long.  The sampler asks now and then."""
        if self.holder is not self.home and now - self._away_since >= HOME_BOUND:
            self.due = -math.inf

    def remind(self) -> None:
        """See that a step of the home raises what was put off, and calls signal handlers while others compute.  The
        sampler asks at each look."""
        home = self.home
        if self.summoned is not None:
            self._hasten()
        if self.owes():
            self._face.remind()
        elif home is not None and home.state is LwpState.BLOCKED:
            self._face.heed()

    def owes(self) -> bool:
        """Whether a step of the home that is under way has to raise something, or to be interrupted by a handler."""
        home = self.home
        owes = home is not None and (home.interrupt is not None or self.summoned is not None)
        return owes and home is not None and home.handle is not None and home.state in _STEPS

    def _serve_preempted(self, lwp: LWP) -> bool:
        """End of a batch: maybe it is the turn of a preempted step.  Returns whether the LWP still holds the loop."""
        self._batches += 1
        if self._batches < PREEMPTED_BOUND and self._face.has_work():
            return True
        with self.mutex:
            self._batches = 0
            if not self.preempted:
                return True
            lwp.state = LwpState.WOKEN
            target = self._grant(self.preempted[0])
        self._send(target)
        return False

    def _stop(self, lwp: LWP) -> bool:
        """The loop shall stop, and goes home for it unless that is blocked.  Returns whether the LWP still holds it."""
        home = self.home
        assert home is not None
        target: LWP | _Action | None = None
        with self.mutex:
            gives = home.state in WAITING
            if gives:
                lwp.state = LwpState.WOKEN
                target = self._grant(home)
            elif home.state is LwpState.POLLING:
                target = _Action.POKE
        self._send(target)
        return not gives

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
            if self._waking is not None:
                return True
            if not self.parked:
                return False
            lwp = self._awaken(self.parked.pop())
        self._send(lwp)
        return True

    # ---------------------------------------------------------------- a step leaves and comes back

    def can_stop(self) -> bool:
        """Whether the home is there to stop the loop: it is not blocked."""
        home = self.home
        return home is None or home.state is not LwpState.BLOCKED

    def others(self, lwp: LWP) -> bool:
        """Whether anybody else wants the loop: if not, a step need not be preempted.  Any thread may ask."""
        face = self._face
        if self.returning or self.preempted or self.due is not None or face.has_work():
            return True
        # Nobody polls while it runs: what the kernel has ready is not known.
        return face.has_input()

    def leave(self, lwp: LWP, state: LwpState, still: Callable[[], bool] | None = None) -> bool:
        """The LWP's step goes on without the loop, and the loop without it.

        Args:
            lwp: whose step it is.  It calls this itself, or the sampler does on its behalf.
            state: BLOCKED or PREEMPTED.
            still: the sampler's: whether what it has seen is still so.  Called under the mutex.

        Returns:
            Whether the loop was left; False if the LWP does not hold it, what the sampler has seen is out of date, or
            the system has nothing to make another LWP of.
        """
        with self.mutex:
            if self.holder is not lwp or self.state is not LoopState.HELD:
                return False
            if still is not None and not still():
                return False
            if not self._pool.prepare():  # what may be refused is asked for before anything has changed
                return False
            before = lwp.state
            try:
                lwp.alert = lwp.moved = True
                self.amid = self._face.unfinished()
                lwp.state = state
                self.detached.add(lwp)
                self.handoffs += 1
                self._face.left(lwp)
                if state is LwpState.PREEMPTED:
                    lwp.since = monotonic()
                    self.preempted.append(lwp)
                self._free()
            except BaseException:
                self._stay(lwp, before)
                raise
            try:
                successor = self._successor()
            except BaseException:
                self.repair()
                raise
        try:
            self._send(successor)
        except BaseException:
            self.repair()
            raise
        return True

    def _stay(self, lwp: LWP, state: LwpState) -> None:
        """The LWP's step has not left the loop after all.  Mutex held."""
        self.holder, self.state = lwp, LoopState.HELD
        self._unqueue(lwp)
        self._arrive(lwp)
        lwp.state = state
        if lwp in self.detached:
            self.detached.remove(lwp)
            self._face.returned(lwp)

    def mark(self, lwp: LWP) -> None:
        """The LWP's step begins a call that may block: the sampler may retake the loop."""
        with self.mutex:
            lwp.state = LwpState.MARKED
            self.marks += 1

    def replenish(self) -> None:
        """Start an LWP if fewer are parked than ``spare_lwps``: the next block shall find one.  Any thread."""
        if len(self.parked) + len(self.pollers) >= self._spare_lwps:
            return
        with self.mutex:
            if self._rest is not LoopState.FREE:
                return
            ready = len(self.lwps) - len(self.detached)  # parked, polling, or on their way to that
            # One that was woken for a loop that somebody else has taken since will park again.
            ready -= len({self.holder or self._waking, self.home} - self.detached - {None})
            if ready >= self._spare_lwps:
                return
            lwp = self._new()
        self._send(lwp)

    def rejoin(self, lwp: LWP) -> bool:
        """The LWP's call is over: wait until it holds the loop.  Called by itself.

        Returns:
            Whether it had been without the loop.

        Raises:
            RuntimeError: the process is a forked child.
        """
        with self.mutex:
            if self.state is LoopState.FORKED:
                raise _left_behind(lwp)
            state = lwp.state
            if state is LwpState.RUNNING or state is LwpState.POLLING:
                return False
            if state is LwpState.MARKED:
                lwp.state = LwpState.RUNNING
                return False
            if state is LwpState.BLOCKED:
                now = monotonic()
                if self._claimable() and not (self.returning and now - self.returning[0].since >= RETURN_BOUND):
                    self._take(lwp)
                    return True
                lwp.since = now
                lwp.state = state = LwpState.RETURNING
                self.returning.append(lwp)
                self._expect(now + RETURN_BOUND)
                # The loop may be free, with an older step waiting that nobody has woken.
                successor = self._successor() if self._claimable() else self._poked()
            else:
                successor = None
        self._send(successor)
        self._wait(lwp, LwpState.PREEMPTED if state is LwpState.PREEMPTED else LwpState.RETURNING)
        if self.summoned is not None and lwp is self.home:
            self._heed(lwp)
        return True

    def _wait(self, lwp: LWP, state: LwpState) -> None:
        """Sleep in a queue until the loop is held."""
        while True:
            if lwp is self.home and self._mail:
                self._serve()
            try:
                if not lwp.sleep(HOME_NAP if lwp is self.home else -1):
                    continue
            except BaseException as exc:
                # A signal handler raised, on the main thread.  It is raised again where the step goes on.
                # The queue of the preempted has no claim; the home is granted the loop for its interrupt all the same.
                # It may have come when the ring had been heard already: so look why, as after any ring.
                self._interrupted(lwp, exc)
            with self.mutex:
                if self._waking is lwp:
                    self._waking = None
                if self.state is LoopState.FORKED:
                    raise _left_behind(lwp)
                if self.holder is lwp:
                    self._take(lwp)
                    return
                if self._claimable() and state is LwpState.RETURNING:
                    self._unqueue(lwp)
                    self._take(lwp)
                    return
                lwp.state = state
                queue = self.returning if state is LwpState.RETURNING else self.preempted
                if lwp not in queue:  # it was excused
                    queue.append(lwp)
                    self._expect(lwp.since + RETURN_BOUND)
                successor = self._successor() if self._claimable() else self._poked()
            self._send(successor)

    def _interrupted(self, lwp: LWP, exc: BaseException) -> None:
        with self.mutex:
            if lwp.interrupt is None:
                lwp.interrupt = exc
            self._expect(-math.inf)

    def interrupted(self, exc: BaseException) -> None:
        """A signal handler has raised on the home, in the middle of the protocol: raise it when that is over."""
        home = self.home
        assert home is not None
        self._interrupted(home, exc)
        home.wake()  # it may sleep, or poll
        if home.state is LwpState.POLLING:
            self._face.poke()

    # ---------------------------------------------------------------- the home blocks in a signal handler

    def excuse(self, handler: Handler, call: Call, *, moves: bool) -> bool:
        """The home blocks in a signal handler, where it has no step: nobody is to rely on it until that is over.

        Args:
            handler: the handler, as the sampler has seen it.
            call: what it blocks in.
            moves: whether anything is done about it.

        Returns:
            Whether it is so still; the end of the call will be told then.
        """
        if not self.mutex.acquire(blocking=False):
            return False  # maybe it is the home's: the handler has interrupted the protocol
        try:
            home = self.home
            if self.handler is not handler or not handler.relied or handler.duty is not None or home is None:
                return False
            handler.call = call
            alone = home.state is LwpState.POLLING and self.holder is home
            if not moves or (alone and not self._claimed_polls):
                return True
            relied = home in (self.holder, self._waking, *self.pollers)
            # First what report_back() goes by: it undoes what follows, also where an exception has broken that off.
            handler.had_step = home in self.detached
            handler.duty = LwpState.RUNNING if alone else home.state
            home.state = LwpState.BLOCKED
            self.detached.add(home)
            self.handoffs += 1
            if alone:
                self._free()
            elif self.holder is home:  # it was granted the loop, and has not come yet
                self.state = self._rest
                self.holder, self.holder_ident = None, 0
            if self._waking is home:
                self._waking = None
            self._unqueue(home)
            successor = self._successor() if relied and self._claimable() else None
        except BaseException:
            if home is not None and home.state is not LwpState.BLOCKED:
                handler.duty = None  # nothing has changed yet: the next look tries again
            raise
        finally:
            self.mutex.release()
        self._send(successor)
        return True

    def report_back(self, handler: Handler) -> Call | None:
        """The home's signal handler is over: the home does again what it did.  Returns what it has blocked in."""
        successor = None
        with self.mutex:
            self.handler = handler.outer
            home = self.home
            if handler.duty is None or home is None:
                return handler.call
            if not handler.had_step:
                self.detached.discard(home)
            if handler.duty is LwpState.POLLING:
                home.state = LwpState.POLLING
                self.pollers.append(home)
            elif handler.duty is LwpState.RUNNING:
                # At once: from here on others may count on it again, also while another handler interrupts this.
                home.since = monotonic()
                home.state = LwpState.RETURNING
                self.returning.append(home)
                self._expect(home.since + RETURN_BOUND)
                successor = self._successor() if self._claimable() else None
            else:
                home.state = LwpState.WOKEN
        if handler.duty is LwpState.RUNNING:
            self._send(successor)
            self._wait(home, LwpState.RETURNING)
            with self.mutex:
                self._stale = True  # what its poll has found, if that was over when the signal came
                home.state = LwpState.POLLING
                self.holder_ident = 0
        elif home.state is LwpState.WOKEN:
            home.wake()
        self._face.poke()  # its poll may last too long by now, and others may have something to tell it
        return handler.call

    # ---------------------------------------------------------------- the home has the loop for a signal handler

    def turn_of(self, *, half_way: bool) -> Turn:
        """A signal handler of the home's is due: can it be called where it has come?

        A call that is marked is so no longer: no sampler is to retake the loop while the handler runs.

        Args:
            half_way: whether it has come in the middle of this package's own code.
        """
        inside = self.inside()
        with self.mutex:
            home = self.home
            if home is None or self.state is LoopState.FORKED:
                return Turn.HERE
            if home.handle is IN_POLL:
                return Turn.LATER if half_way else Turn.HERE
            if self.holder is home and home.state in (LwpState.RUNNING, LwpState.MARKED):
                if home.trap is not None and home.trap.call is not None:
                    home.trap.sprung = True
                if home.state is LwpState.RUNNING:
                    return Turn.HERE
                home.state = LwpState.RUNNING
                return Turn.MARKED
            if inside:
                return Turn.LATER
            excused = self.handler is not None and self.handler.duty is not None
            if home.state is LwpState.BLOCKED and home.handle is not None and not half_way and not excused:
                return Turn.BORROWED
            return Turn.HERE if excused or self._is_late() else Turn.LATER

    def _is_late(self) -> bool:
        return self.summoned is not None and monotonic() - self.summoned >= LAST_BOUND

    def mark_again(self, home: LWP, call: Call | None) -> None:
        """A signal handler that has interrupted a marked call is over, and that call goes on."""
        with self.mutex:
            if self.holder is home and home.state is LwpState.RUNNING and home.call is call:
                home.state = LwpState.MARKED

    def borrow(self) -> bool:
        """The home's step is BLOCKED, and a signal handler interrupts its call: hold the loop, or wait for it.

        Returns:
            Whether the loop is held, until the home leaves it again; False if it cannot be had within the bound.
        """
        home = self.home
        assert home is not None
        while True:
            with self.mutex:
                if self._waking is home:
                    self._waking = None
                if self.holder is home or self._claimable():
                    exhausted = self._exhausted
                    self._unqueue(home)
                    self._take(home)
                    self._exhausted = exhausted  # it leaves again at once
                    return True
                if self.summoned is None:
                    self.summoned = monotonic()
                if self._is_late() or self.state is LoopState.FORKED:
                    self._unqueue(home)
                    home.state = LwpState.BLOCKED
                    return False
                home.state = LwpState.RETURNING
                if home not in self.returning:
                    home.since = -math.inf
                    self.returning.appendleft(home)
                    self._expect(-math.inf)
                poked = self._poked()
            self._send(poked)
            if self._mail:
                self._serve()
            try:
                home.sleep(HOME_NAP)
            except BaseException as exc:
                self._interrupted(home, exc)

    def summon(self) -> None:
        """A signal handler cannot be called where its signal has come: the home is to call it when it has the loop.

        The home calls this, wherever it is, maybe inside of the mutex: so nothing changes that others rely on.
        """
        home = self.home
        if self.summoned is None:
            self.summoned = monotonic()
        if home is not None:
            self._hurry(home)
            home.wake()
            self._face.poke()

    def _hurry(self, home: LWP) -> None:
        if self.holder is not home:
            self.due = -math.inf

    def _hasten(self) -> None:
        """A signal handler waits for the home: see that it hears of that.  The sampler asks."""
        home, summoned = self.home, self.summoned
        if home is None or summoned is None:
            return
        self._hurry(home)
        if home.state is LwpState.POLLING:
            self._face.poke()
        elif home.state in WAITING and self._is_late():
            self.mail()

    def give_up(self) -> None:
        """Nobody lends the loop to the home for a signal handler: it is to be called without.  The sampler asks."""
        if self.summoned is not None:
            self.summoned = -math.inf
            self._hasten()

    def lend(self, lwp: LWP) -> None:
        """The holder's step is interrupted for a signal handler: the home has the loop until that is over."""
        with self.mutex:
            home = self.home
            if self.summoned is None or self.holder is not lwp or home is None or home.state not in WAITING:
                return
            lwp.alert = lwp.moved = True
            self.amid = self._face.unfinished()
            lwp.state = LwpState.RETURNING
            lwp.since = -math.inf
            self.detached.add(lwp)
            self._face.left(lwp)
            target = self._grant(home)
            self.returning.appendleft(lwp)
        self._send(target)
        self._wait(lwp, LwpState.RETURNING)

    def _heed(self, home: LWP) -> None:
        """The home has the loop again for its step: signal handlers come first, and then a step that has lent it."""
        self._face.catch_up(home)
        if self.returning and self.returning[0].since == -math.inf:
            self.leave(home, LwpState.BLOCKED)
            self.rejoin(home)

    # ---------------------------------------------------------------- idling, polling, parking

    def _idle(self, lwp: LWP) -> bool:
        """The holder has nothing to run: free the loop.

        Returns:
            Whether the LWP shall poll; if not, it is parked already, and only has to sleep.
        """
        deadline = self._face.next_timer()
        successor: LWP | _Action | None = None
        home = self.home
        with self.mutex:
            self._free()
            if home is not None and home is not lwp and home.state is LwpState.PARKED and self._waking is None:
                successor = self._awaken(home)
                polls = False
            else:
                polls = not self.pollers or lwp is home
                if self.returning and self._waking is None:
                    successor = self._awaken(self.returning[0])
                elif (not polls and deadline < min(p.deadline for p in self.pollers)) or self._unheard():
                    successor = _Action.POKE
            if polls:
                lwp.deadline = deadline
                lwp.state = LwpState.POLLING
                self.pollers.append(lwp)
            else:
                self._park(lwp)
        self._send(successor)
        return polls

    def _polled(self, lwp: LWP) -> bool:
        """The LWP's poll is over.  Returns whether it holds the loop now."""
        with self.mutex:
            self.pollers.remove(lwp)
            lwp.state = LwpState.WOKEN
            if self.state is not LoopState.FREE:
                return False
            self._stale = self._last is not lwp
            self._take(lwp)
            return True

    def _keep_idle(self, lwp: LWP) -> bool:
        """The holder has nothing to run, and the engine cannot be claimed: poll while holding, if nobody waits.

        Returns:
            Whether the LWP shall poll; if not, the loop is free, and it is parked already and only has to sleep.
        """
        home = self.home
        successor = None
        with self.mutex:
            waits = home is not None and home is not lwp and home.state is LwpState.PARKED
            due = self._due(lwp, monotonic())
            if due is None and not waits and not self.returning:
                lwp.state = LwpState.POLLING
                self.holder_ident = 0
                return True
            if due is not None:
                successor = self._grant(due)
            else:
                self._free()
                if self._waking is None:
                    successor = self._awaken(home if waits and home is not None else self.returning[0])
            self._park(lwp)
        self._send(successor)
        return False

    def _kept_idle(self, lwp: LWP) -> None:
        """The poll of a holder is over."""
        with self.mutex:
            self._arrive(lwp)

    def _poked(self) -> _Action | None:
        """Somebody has queued, and the holder may be in a poll that it has to come out of.  Mutex held."""
        holder = self.holder
        return _Action.POKE if holder is not None and holder.state is LwpState.POLLING else None

    def _obtain(self, lwp: LWP, *, asleep: bool = False) -> bool:
        """Wait for the loop, without a step.

        Args:
            lwp: the LWP of the calling thread.
            asleep: whether it is parked already.

        Returns:
            Whether the LWP holds the loop; if not, it has retired.
        """
        follow = not asleep
        home = lwp is self.home
        patience: float = HOME_NAP if home else self._idle_timeout
        while True:
            if not asleep:
                with self.mutex:
                    self._unqueue(lwp)
                    self._starting.pop(lwp, None)
                    if self._waking is lwp:
                        self._waking = None
                    if self.holder is lwp:
                        self._take(lwp)
                        return True
                    if not home and (self._rest is LoopState.DRAINING or lwp not in self.lwps):
                        break
                    if self.state is LoopState.FREE:
                        self._take(lwp)
                        return True
                    follow = follow and not self.pollers and bool(self.detached) and self.state is LoopState.HELD
                    follow = follow and self._claimed_polls
                    told = home and (self._mail or self.summoned is not None)
                    if follow and not lwp.kept and lwp.interrupt is None and not told:
                        lwp.state = LwpState.POLLING
                        lwp.deadline = self._face.next_timer()
                        self.pollers.append(lwp)
                    else:
                        follow = False
                        self._park(lwp)
                    poked = self._poked() if home or lwp.kept else None
                self._send(poked)
                if follow:
                    follow = False
                    self._face.select(self._face.until(lwp.deadline))
                    if self._polled(lwp):
                        return True
                    continue
            asleep = False
            if home and self._mail:
                self._serve()
            try:
                woken = lwp.sleep(patience)
            except BaseException as exc:
                # A signal handler raised, on the main thread.  carry() raises it once the loop is held.
                self._interrupted(lwp, exc)
                continue
            if not woken:
                with self.mutex:
                    idle = lwp.state is LwpState.PARKED and not lwp.bound_tasks
                    if idle and not home and len(self.parked) > self._spare_lwps:
                        self._unqueue(lwp)
                        break
                asleep = True
                if not home:
                    patience = -1  # it is one of those that are kept: if there are ever more, the others end
        self._retire(lwp)
        return False

    def _park(self, lwp: LWP) -> None:
        """Queue an LWP that is without a step.  Mutex held."""
        lwp.since = monotonic()
        if lwp.kept or (self.summoned is not None and lwp is self.home):
            # Steps of bound user threads, or a signal handler, wait for this LWP: it queues as one that returns.
            lwp.state = LwpState.RETURNING
            self.returning.append(lwp)
            self._expect(lwp.since + RETURN_BOUND)
            return
        lwp.state = LwpState.PARKED
        if lwp is self.home:
            self._expect(self._away_since + HOME_BOUND)
        else:
            self.parked.append(lwp)

    def keep(self, lwp: LWP, handle: asyncio.Handle) -> None:
        """Keep a step of a bound user thread for its LWP, which gets the loop for it.  The holder calls this."""
        with self.mutex:
            lwp.kept.append(handle)  # from here on it is not lost: whoever looks at the LWP sees it
            polling = lwp.state is LwpState.POLLING
            if lwp.state is LwpState.PARKED:
                self._unqueue(lwp)
                self._park(lwp)
            self._expect(-math.inf)
        if polling:
            self._face.poke()

    # ---------------------------------------------------------------- under the mutex: take, free, wake

    def _claimable(self) -> bool:
        return self.state is LoopState.FREE or self.state is LoopState.DRAINING

    def _take(self, lwp: LWP) -> None:
        """The LWP of the calling thread takes the loop, or it was granted it; its step, if it has one, goes on."""
        if self.holder is not lwp:
            self._hold(lwp)
        self._arrive(lwp)
        if lwp in self.detached:
            self.detached.remove(lwp)
            self._face.returned(lwp)
            if self._exhausted and len(self.detached) * 2 <= self._max_lwps:
                self._exhausted = False
        self._face.follow(lwp)

    def _hold(self, lwp: LWP) -> None:
        self.state = LoopState.HELD
        self.holder = lwp
        if self._last is self.home:
            self._away_since = monotonic()
        self._last = lwp
        self.claims += 1

    def _arrive(self, lwp: LWP) -> None:
        """The holder begins to run."""
        self.holder_ident = lwp.ident
        lwp.state = LwpState.RUNNING
        self._face.taken(lwp)
        self._want(lwp)

    def _free(self) -> None:
        if self.holder is not None:
            self._face.gives(self.holder)
        self.state = self._rest
        self.holder = None
        self.holder_ident = 0

    def _grant(self, target: LWP) -> LWP | None:
        """Give the loop to an LWP that sleeps or is on its way.  Returns it if it has to be woken."""
        if self.holder is not None:
            self._face.gives(self.holder)
        self._unqueue(target)
        self._hold(target)
        return self._rouse(target)

    def _rouse(self, lwp: LWP) -> LWP | None:
        """An LWP has to be awake.  Returns it if it has to be woken."""
        if lwp.state is LwpState.WOKEN:
            return None
        lwp.state = LwpState.WOKEN
        self.wakeups += 1
        return lwp

    def _unqueue(self, lwp: LWP) -> None:
        for queue in (self.parked, self.pollers, self.returning, self.preempted):
            if lwp in queue:
                queue.remove(lwp)

    def _awaken(self, lwp: LWP) -> LWP | None:
        """Choose an LWP to be woken for a free loop.  Returns it if it has to be woken."""
        self._waking = lwp
        return self._rouse(lwp)

    def _successor(self, *, grow: bool = True) -> LWP | _Action | None:
        """The loop was set free: who has to be woken, if anybody?  ``grow``: it may be a new LWP."""
        returning = self.returning
        if returning and monotonic() - returning[0].since >= RETURN_BOUND:
            return self._grant(returning[0])
        if self._waking is not None:
            return None
        if returning:
            return self._awaken(returning[0])
        if self._rest is not LoopState.FREE:
            return self._grant(self.preempted[0]) if self.preempted else None
        home = self.home
        if self.pollers:
            late = self._face.next_timer() < min(poller.deadline for poller in self.pollers)
            if not late and not self.preempted and not self._face.has_work():
                return _Action.POKE if self._unheard() else None
        if home is not None and home.state is LwpState.PARKED:
            return self._awaken(home)
        if self.parked:
            return self._awaken(self.parked.pop())
        if self.pollers:
            return _Action.POKE
        if len(self.detached) < len(self.lwps):
            return None  # an LWP that is not blocked is on its way, to park or from its start, and will look
        new = self._new() if grow else None
        if new is not None:
            self._waking = new
            return new
        if self.preempted:
            return self._grant(self.preempted[0])
        if self._exhausted:
            return None  # told already
        self._exhausted = True
        return _Action.EXHAUSTED

    def _new(self) -> LWP | None:
        if len(self.lwps) >= self._max_lwps:
            return None
        lwp = self._pool.new()
        if lwp is None:
            self._refused = monotonic() + REFUSED_PAUSE
        else:
            lwp.since = monotonic()
            self._starting[lwp] = os_ident()
        return lwp

    # ---------------------------------------------------------------- what is done without the mutex

    def _send(self, successor: LWP | _Action | None) -> None:
        if successor is None:
            return
        if successor is _Action.POKE:
            self._face.poke()
        elif successor is _Action.EXHAUSTED:
            self._pool.log_exhausted(self._max_lwps)
        elif not successor.launched:
            if not self._pool.start(successor):
                self._bereft()
        else:
            successor.wake()

    def disown(self, lwp: LWP) -> None:
        """An LWP's thread could not be started, or may never come."""
        with self.mutex:
            if self._starting.pop(lwp, None) is None:
                return  # it has come already
            self.lwps.discard(lwp)
            if self._waking is lwp:
                self._waking = None
            if lwp.thread is not None:
                self._pool.retires(lwp)
        self.changed.ring()

    def _bereft(self, *, grow: bool = False) -> None:
        """The system has no thread to give: whoever relied on it does without.  ``grow``: it may have one again."""
        with self.mutex:
            if grow:
                self._refused, self._exhausted = 0.0, False
            else:
                self._refused = monotonic() + REFUSED_PAUSE
            successor = self._successor(grow=grow) if self._claimable() else None
            if successor is _Action.EXHAUSTED:  # in a way; but the log has said already what the loop waits for
                successor, self._exhausted = None, False
        self._send(successor)

    def _retire(self, lwp: LWP) -> None:
        with self.mutex:
            if self.state is LoopState.FORKED:
                return
            if self.holder is lwp:
                self._free()
            if self._waking is lwp:
                self._waking = None
            self.lwps.discard(lwp)
            self._face.retires(lwp)
            self._pool.retires(lwp)
            lwp.state = LwpState.RETIRED
            successor = self._successor() if self._claimable() else None
        self._send(successor)
        self._pool.retired(lwp)

    # ---------------------------------------------------------------- the home's mailbox

    def mail(self) -> None:
        """Somebody has put something into the home's mailbox: see that the home looks."""
        wake: LWP | _Action | None = _Action.POKE  # it may be about to poll
        with self.mutex:
            self._mail = True
            self._expect(-math.inf)
            home = self.home
            if home is not None and home.state in WAITING:
                wake = self._rouse(home)
        self.changed.ring()
        self._send(wake)

    def _serve(self) -> None:
        self._mail = False
        try:
            self._face.serve()
        except BaseException:
            self._mail = True  # what is left is served when the home looks the next time
            raise

    # ---------------------------------------------------------------- the end

    def close(self) -> None:
        """Wait until every LWP has finished its step, and end them all.  The loop is stopped."""
        with self.mutex:
            if self.state is LoopState.FORKED:
                return
            self._rest = LoopState.DRAINING
            if self.state is not LoopState.HELD:  # held: by a step that drains; a close before was interrupted
                self.state = LoopState.DRAINING
            wake: list[LWP | _Action | None] = [self._rouse(lwp) for lwp in self.parked]
            self.parked.clear()
            wake += self._mend()  # a close before may have been broken off
            wake.append(_Action.POKE)
        for successor in wake:
            self._send(successor)
        for _ in self._pool.ended():
            if self._mail:
                self._serve()

    def loosen(self, face: Face) -> None:
        """The loop is closed: refer to it by this from now on, and to what refers to us weakly, too."""
        self._face = face
        self._pool.loosen(face, weakref.proxy(self))
        self.reactions = weakref.proxy(self.reactions)
        self._former = None
        self._absent.clear()

    def is_forked(self) -> bool:
        """Whether this process is a child of the one that the LWPs live in."""
        return self.state is LoopState.FORKED

    def forked(self) -> None:
        """This process is a child of the one that the LWPs live in."""
        self.holder = None
        self._reset(LoopState.FORKED)


def _left_behind(lwp: LWP) -> RuntimeError:
    """What a step gets that goes on in a forked child."""
    error = RuntimeError(FORKED_ADVICE)
    lwp.meant = id(error)
    return error
