"""Carrying: which LWP carries the loop, and how the loop moves.  This file is the protocol.

The model in five lines:

* An event loop is a virtual processor.  Any LWP (an OS thread of its pool, ``lwp.py``) can carry it, one at a time.
* The loop is HELD by one LWP, its *holder*, or FREE.  While it is FREE, an LWP polls, or a woken one is on its way.
* A step that blocks *leaves*: its LWP stays in the call, the loop becomes FREE, another LWP takes it.
* A step whose call has returned *rejoins*: its LWP takes the loop if it is FREE, else it queues and waits for its turn.
* LWPs *claim* a FREE loop: whoever finds it first takes it.  No successor is designated, so the loop never waits for
  one particular thread to be scheduled.  Only an LWP that is overdue is *granted* the loop by its holder.

The **home** is the thread that called ``run_forever``: it alone stops the loop, and calls signal handlers.  All other
LWPs are **spares**.  The states of the loop are those of ``LoopState`` (``record.py``)::

    STOPPED  -- begin -->  HELD             HELD  -- finish -->  STOPPED
    HELD     -- leave, idle -->  FREE       FREE  -- take -->  HELD          HELD  -- grant -->  HELD by another
    STOPPED  -- close -->  DRAINING         DRAINING  <-- a step that was blocked finishes -->  HELD

The moves, in the order of the file:

1. *Carry.*  An LWP takes the loop, runs what is ready, and polls when nothing is (``polling.py``).  The home carries
   until the loop stops, a spare until it retires.
2. *Obtain.*  An LWP that has neither a step nor the loop becomes a standby: if no LWP polls, it does, so that the next
   step that blocks need not wake a thread.  If its poll ends and another LWP holds the loop, it parks.
3. *Boundary.*  Between two steps, once ``due`` has passed, the holder grants the loop to the LWP that has waited long
   enough: to one that rejoins after ``RETURN_BOUND``, to the home after ``HOME_BOUND``, or at once if it is wanted.
4. *Leave.*  An LWP gives up the loop in its step.  It does so itself if the call is sure to block; the sampler does it
   on its behalf if the call was only *marked*, or if a trap waits for the step (``detector/``).  If nothing is ready
   and a poller wakes in time for the next timer, no thread is woken: the cheapest handoff.
5. *Rejoin.*  The call has returned.  Whoever frees the loop wakes the head of ``returning``.  Once the head has waited
   for ``RETURN_BOUND``, no other LWP takes the loop before it.
6. *Preempted.*  A step that overran its time slice queues in ``preempted``.  It gets the loop at the end of a batch:
   when nothing else is ready, or after ``PREEMPTED_BOUND`` batches.

*The home is wanted* (``is_home_wanted``) to stop the loop, to raise what a signal handler has raised, or to call a
handler.  A waiting home is then granted the loop, and a polling home has its poll broken.  What is in its mailbox it
serves whenever it waits, also without the loop.  While the home is blocked in a step the loop continues elsewhere: the
home could wait for something that only the loop can do.

Special cases have files of their own: begin and finish (``homes.py``), exceptions in the middle of a move
(``repair.py``), signal handlers (``borrowing.py``, ``excused.py``), steps that wait for one another
(``suspending.py``), the end of a loop (``ending.py``).  What is done under the mutex is in ``record.py``; who is woken,
and how an LWP sleeps, in ``waking.py``.

Races, and why they are safe:

* R1 *Return against retake.*  The sampler retakes the loop from a MARKED call just as that returns.  Both change the
  state under the mutex.  If the return wins, the LWP is RUNNING and the sampler finds no mark; if the sampler wins, the
  LWP is BLOCKED and queues.
* R2 *Two wakers.*  Only the thread that changes a sleeper's state to WOKEN, under the mutex, releases its lock
  (``Record.rouse``).
* R3 *A wake in flight, and a barger.*  The woken LWP finds the loop HELD and goes back to its place in the queue
  (``Waking.wait``).
* R4 *A signal handler raises in the middle of all this*, on the home.  The exception does not surface here: it is put
  off (``signals/shield.py``), a home that sleeps or polls is woken, and it is raised once the home holds the loop.
  Where no stand-in is installed for the handler, ``sleep`` can still raise it.
* R5 *Work arrives while the loop is FREE.*  Its sender writes to the self-pipe, which ends a poll.
* R6 *A byte that another LWP has read.*  A byte in the self-pipe wakes all pollers, but one that has not run yet finds
  the pipe empty if the holder was faster.  So whoever frees the loop, or ends a step, breaks the poll of a poller that
  has something to do (``is_unheard``), and the sampler makes the holder look (``recall``).

Rejected (``docs/decisions/``): the *baton* (the owner names its successor and waits), and a pool shared by loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..platform.clock import monotonic
from . import order
from .homes import Homes
from .lwp import LWP, STEP_ENDED, LwpState
from .polling import Missed, claim, poll
from .record import LoopState
from .waking import HOME_NAP, Action, left_behind

PREEMPTED_BOUND = 4
"""A preempted step gets its turn when nothing else is ready, or after this many batches."""


class Carrying(Homes):
    """Who carries one loop.  The arguments are the record's (``record.py``)."""

    def __init__(self, **options: Any) -> None:
        self._batches = 0  # since a preempted step had its turn
        super().__init__(**options)

    # ---------------------------------------------------------------- 1. carry

    def carry(self, lwp: LWP) -> None:
        """Carry the loop in turn with the others.  The home returns when the loop stops, a spare when it retires."""
        turns = self.host.turns
        held, asleep = lwp is self.home, False  # begin() has taken it
        while True:
            if not held:
                if not self._obtain(lwp, asleep=asleep):
                    return
                held, asleep = True, False
            if lwp is self.home:
                wanted = self.mailed or self.summoned is not None or lwp.interrupt is not None
                if wanted and not self._attend(lwp):
                    held = False
                    continue
            elif self.unheld is not LoopState.FREE:
                self.retire(lwp)
                return
            if self.batch_unfinished:
                events = None
            elif (timeout := turns.timeout()) == 0 or lwp.bound_steps or self.preempted:
                events = self.host.poll.wait(0)
            else:
                events = poll(self, lwp, timeout)
                if events.__class__ is Missed:
                    held, asleep = False, events is Missed.PARKED
                    continue
            if self.summoned is not None and lwp is self.home:
                continue  # a signal ended the poll: its handler comes first, and the next poll finds the events again
            held = turns.run(lwp, events)
            if not held or self.batch_unfinished:
                continue
            if self.stopping and self.home is not None:
                if lwp is self.home:
                    return
                held = self.boundary(lwp)
            if held and self.preempted:
                held = self._serve_preempted(lwp)

    def _attend(self, home: LWP) -> bool:
        """The home holds the loop, has no step, and is wanted.  Returns whether it still holds the loop."""
        if self.summoned is not None:
            self.host.home_side.catch_up(home)
            if not self.boundary(home):  # a step has lent the loop
                return False
        if self.mailed:
            self.serve()
        if home.interrupt is not None:
            interrupt, home.interrupt = home.interrupt, None
            if not self.host.home_side.passes_on(interrupt):
                raise interrupt
        return True

    # ---------------------------------------------------------------- 2. obtain

    def _obtain(self, lwp: LWP, *, asleep: bool) -> bool:
        """Wait for the loop, without a step.

        Args:
            lwp: the LWP of the calling thread.
            asleep: whether it is parked already.

        Returns:
            Whether the LWP holds the loop; if not, it has retired.
        """
        follow = self.claimable and not asleep
        home = lwp is self.home
        patience: float = HOME_NAP if home else self.idle_timeout
        while True:
            if not asleep:
                with self.mutex:
                    self.unqueue(lwp)
                    self.starting.pop(lwp, None)
                    self.arrived(lwp)
                    if self.holder is lwp:
                        self.take(lwp)
                        return True
                    if not home and (self.unheld is LoopState.DRAINING or lwp not in self.lwps):
                        break
                    if self.state is LoopState.FREE:
                        self.take(lwp)
                        return True
                    follow = follow and self.state is LoopState.HELD and not self.pollers and bool(self.detached)
                    if follow and not lwp.bound_steps and not (home and (self.mailed or self.is_home_wanted())):
                        lwp.state = LwpState.POLLING
                        lwp.deadline = order.next_deadline(self)
                        self.pollers.append(lwp)
                    else:
                        follow = False
                        self.park(lwp)
                    poked = self.poke_holder() if home or lwp.bound_steps else None
                self.send(poked)
                if follow:
                    follow = False
                    self.host.poll.wait(self.host.turns.until(lwp.deadline))
                    if claim(self, lwp):
                        return True
                    continue
            asleep = False
            if home and self.mailed:
                self.serve()
            try:
                woken = lwp.sleep(patience)
            except BaseException as exc:  # R4: on the main thread.  carry() raises it once the loop is held
                self.note_interrupt(lwp, exc)
                continue
            if not woken:
                with self.mutex:
                    idle = lwp.state is LwpState.PARKED and not lwp.bound_tasks
                    if idle and not home and len(self.parked) > self.spare_lwps:
                        self.unqueue(lwp)
                        break
                asleep = True
                if not home:
                    patience = -1  # keep this spare for good; later surplus spares retire instead
        self.retire(lwp)
        return False

    def retire(self, lwp: LWP) -> None:
        """End an LWP that has no step."""
        with self.mutex:
            if self.state is LoopState.FORKED:
                return
            if self.holder is lwp:
                self.free()
            self.arrived(lwp)
            self.lwps.discard(lwp)
            self.host.luggage.retires(lwp)
            self.pool.retires(lwp)
            lwp.state = LwpState.RETIRED
            successor = self.successor() if self.is_claimable() else None
        self.send(successor)
        self.pool.retired(lwp)

    def keep(self, lwp: LWP, handle: Any) -> None:
        """Keep a step for the LWP that its user thread is bound to, and see that this LWP gets the loop.

        The holder calls this.
        """
        with self.mutex:
            lwp.bound_steps.append(handle)  # from here on the step is not lost
            polling = lwp.state is LwpState.POLLING
            if lwp.state is LwpState.PARKED:
                self.unqueue(lwp)
                self.park(lwp)
            self.expect(-math.inf)
        if polling:
            self.host.turns.break_poll()

    # ---------------------------------------------------------------- 3. boundary

    def boundary(self, lwp: LWP) -> bool:
        """Between two steps, when it is ``due``: give the loop to whoever has waited long enough.

        Returns:
            Whether the LWP still holds the loop.
        """
        if lwp is self.home and self.mailed:
            self.serve()
        with self.mutex:
            target = order.due_lwp(self, lwp, monotonic())
            poke = target is None and self.is_unheard()  # R6
            if target is None:
                self.resume(lwp)
            else:
                lwp.state = LwpState.WOKEN
                self.batch_unfinished = self.batch.__length_hint__() > 0
                target = self.grant(target)
                lwp = None  # type: ignore[assignment]
        self.send(Action.BREAK_POLL if poke else target)
        return lwp is not None

    # ---------------------------------------------------------------- 4. leave

    def mark(self, lwp: LWP) -> None:
        """The LWP's step begins a call that may block: the sampler may retake the loop."""
        with self.mutex:
            lwp.state = LwpState.MARKED
            self.marks += 1

    def leave(self, lwp: LWP, state: LwpState, still: Callable[[], bool] | None = None) -> bool:
        """The LWP's step continues without the loop, which is free for the others.

        Args:
            lwp: whose step it is.  It calls this itself, or the sampler does on its behalf.
            state: BLOCKED or PREEMPTED.
            still: for the sampler: whether what it has seen still holds.  Called under the mutex.

        Returns:
            Whether the loop was left.  False if the LWP does not hold it, if what the sampler has seen is out of date,
            or if the system has no resources for another thread.
        """
        with self.mutex:
            if self.holder is not lwp or self.state is not LoopState.HELD:
                return False
            if still is not None and not still():  # R1
                return False
            # Reserve what may be refused before anything changes.
            if self.pool.prepared is None and not self.pool.prepare():
                return False
            before = lwp.state
            try:
                lwp.slow_exit = lwp.lost_loop = True
                self.batch_unfinished = self.batch.__length_hint__() > 0
                if lwp.handle is STEP_ENDED:
                    self.split_batch()
                lwp.state = state
                self.detached.add(lwp)
                self.handoffs += 1
                if state is LwpState.PREEMPTED:
                    lwp.since = monotonic()
                    self.preempted.append(lwp)
                self.free()
            except BaseException:
                self.stay(lwp, before)
                raise
            try:
                successor = self.successor()
            except BaseException:
                self.repair()
                raise
        if successor is not None:
            try:
                self.send(successor)
            except BaseException:
                self.repair()
                raise
        return True

    # ---------------------------------------------------------------- 5. rejoin

    def rejoin(self, lwp: LWP) -> bool:
        """The LWP's call has returned: wait until it holds the loop.  It calls this itself.

        Returns:
            True if the LWP had lost the loop.

        Raises:
            RuntimeError: the process is a forked child.
        """
        with self.mutex:
            if self.state is LoopState.FORKED:
                raise left_behind(lwp)
            state = lwp.state
            if state is LwpState.RUNNING or state is LwpState.POLLING:
                return False
            if state is LwpState.MARKED:  # R1
                lwp.state = LwpState.RUNNING
                return False
            if state is LwpState.BLOCKED:
                now = monotonic()
                if self.is_claimable() and not (self.returning and order.is_late_return(self, now)):
                    self.take(lwp)
                    return True
                self.queue_as_returning(lwp, now)
                state = LwpState.RETURNING
                successor = self.offer()  # the loop may be free, with an older step waiting that nobody has woken
            else:
                successor = None
        self.send(successor)
        self.wait(lwp, LwpState.PREEMPTED if state is LwpState.PREEMPTED else LwpState.RETURNING)
        if self.summoned is not None and lwp is self.home:
            self.heed(lwp)
        return True

    def heed(self, home: LWP) -> None:
        """The home has the loop again for its step: signal handlers come first, and then a step that has lent it."""
        self.host.home_side.catch_up(home)
        if self.returning and self.returning[0].since == -math.inf:
            self.leave(home, LwpState.BLOCKED)
            self.rejoin(home)

    # ---------------------------------------------------------------- 6. preempted

    def _serve_preempted(self, lwp: LWP) -> bool:
        """End of a batch: maybe it is the turn of a preempted step.  Returns whether the LWP still holds the loop."""
        self._batches += 1
        if self._batches < PREEMPTED_BOUND and order.has_work(self):
            return True
        with self.mutex:
            self._batches = 0
            if not self.preempted:
                return True
            lwp.state = LwpState.WOKEN
            target = self.grant(self.preempted[0])
        self.send(target)
        return False
