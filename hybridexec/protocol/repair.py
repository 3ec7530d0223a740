"""Repair: an exception has come up in the middle of a move.

An exception can come up at any statement, on the home, a spare, or the sampler: memory is refused, the recursion limit
is near, a lock cannot be made, a tracer or a log handler raises.  No ``try`` stands around each.  What holds is closed
once, here:

* *Before* a move changes anything it has what it might be refused (``Pool.prepare``).  A move that is refused does not
  begin: the loop stays with the step, as asyncio's does.
* An exception that goes up *into a step* finds the loop held: whoever lets it go up calls ``hold_again`` first.
* One that comes up on a *spare* outside of a step ends the run with it (``Turns.fail``): the spare takes the loop once
  more and stops it, or its thread ends, and ``bury`` takes it out of all that the others look at.
* One on the *home* outside of a step is raised out of the run, once ``regain`` has got the loop back.
* One on the *sampler* in the middle of a move is followed by ``repair``.  The sampler itself continues.
* All four make the record whole by ``mend``: the state of each LWP is what its own thread has set last, and is true;
  queues, holder and wakes in flight are derived from it.  Whoever is WOKEN is told again: a ring too many only makes a
  sleep short.  What nobody has noticed the sampler finds: a loop that is free, or granted, and for which nobody comes
  from one look to the next (``check``).
"""

from __future__ import annotations

import math

from ..platform.clock import monotonic
from ..platform.threads import os_ident
from . import order
from .lwp import LWP, START_PATIENCE, LwpState
from .record import LoopState
from .waking import Action, Waking


class Repair(Waking):
    """A record that can be made whole again."""

    # ---------------------------------------------------------------- the loop is got back

    def hold_again(self, lwp: LWP) -> None:
        """An exception is about to go up into the LWP's step, which must not run without the loop."""
        if self.holder is not lwp or lwp.state not in order.EXECUTING or lwp in self.detached:
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
            self.unqueue(lwp)
            self.arrived(lwp)
            granted = self.holder is lwp or self.state is self.unheld or not order.is_sound(self, self.holder)
            if granted:
                self.take(lwp)
            else:
                self.queue_as_returning(lwp, -math.inf)
            wake = self.mend()
        self.send_all(wake)
        if not granted:
            self.wait(lwp, LwpState.RETURNING)

    def stay(self, lwp: LWP, state: LwpState) -> None:
        """The LWP's step has not left the loop after all.  The mutex is held."""
        self.holder, self.state = lwp, LoopState.HELD
        self.unqueue(lwp)
        self.resume(lwp)
        lwp.state = state
        self.host.luggage.attach(lwp, with_step=lwp in self.detached)
        self.detached.discard(lwp)

    # ---------------------------------------------------------------- a thread has ended

    def bury(self, lwp: LWP, exc: BaseException) -> None:
        """The thread of a spare ends by an exception, wherever that has found it: so does the run.

        Its own thread calls this last of all; or anybody who has found that the thread has ended without doing so.
        """
        try:
            self.host.turns.fail(exc)
        finally:
            with self.mutex:
                wake: list[LWP | Action] = []
                if lwp in self.lwps or self.holder is lwp:
                    self.unqueue(lwp)
                    self.starting.pop(lwp, None)
                    self.lwps.discard(lwp)
                    self.detached.discard(lwp)
                    if self.state is not LoopState.FORKED:
                        lwp.state = LwpState.RETIRED
                        self.host.turns.orphaned(lwp)
                        self.pool.retires(lwp)
                lwp.state = LwpState.RETIRED
                if self.state not in (LoopState.FORKED, LoopState.STOPPED):
                    wake = self.mend()
            self.send_all(wake)
            self.host.turns.break_poll()  # the run ends: whoever polls has to look
            self.changed.ring()

    def bury_ended(self) -> bool:
        """Bury the spares whose threads have ended without a word.  Returns whether there were any."""
        # One that retires is no longer among the LWPs by the time its thread has ended: so that is looked at last.
        ended = [lwp for lwp in list(self.lwps) if lwp is not self.home and lwp.has_ended() and lwp in self.lwps]
        for lwp in ended:
            self.bury(lwp, RuntimeError(f"the thread of {lwp.name} has ended"))
        return bool(ended)

    def disown(self, lwp: LWP) -> None:
        """An LWP's thread could not be started, or may never come."""
        with self.mutex:
            if self.starting.pop(lwp, None) is None:
                return  # it has come already
            self.lwps.discard(lwp)
            self.arrived(lwp)
            if lwp.thread is not None:
                self.pool.retires(lwp)
        self.changed.ring()

    # ---------------------------------------------------------------- the record is made whole

    def repair(self) -> bool:
        """A move was broken off by an exception: see that nobody waits for what does not come.  Any thread.

        Returns:
            Whether an LWP was found whose thread has ended, or the loop was free with nobody on the way to it.
        """
        found = self.bury_ended()
        for lwp in list(self.starting):
            if monotonic() - lwp.since > START_PATIENCE:
                self.disown(lwp)
        with self.mutex:
            if self.state in (LoopState.STOPPED, LoopState.FORKED):
                return found
            lost = not order.is_sound(self, self.holder) and self.waking is None and not self.pollers
            wake = self.mend()
        self.send_all(wake)
        return found or (lost and bool(wake))

    def check(self, seen: object) -> object:
        """Look whether anybody comes for the loop; repair it if not.  The sampler calls this at each look.

        Args:
            seen: what it returned the last time.

        Returns:
            Where the loop stands if nobody executes on it: who does not come until the next look never does.
        """
        holder = self.holder
        if holder is not None and holder.state is not LwpState.WOKEN and not holder.has_ended():
            if holder.state in order.HOLDING:
                return None
        elif holder is None and order.is_at_rest(self):
            return None
        stands = holder, self.waking, self.state, self.claims, self.wakeups, self.handoffs
        if self.refused:
            self.bereft(grow=True)
        elif stands == seen and self.repair():
            self.host.voice.repaired()
        return stands

    def mend(self) -> list[LWP | Action]:
        """Make the record whole.  What each LWP's own state says is true; all else follows.  The mutex is held.

        Returns:
            Who has to be told: also those that were told before, as the exception may have come first.
        """
        if not order.is_sound(self, self.holder):
            self.holder = None
        if self.holder is None:
            self.state = self.unheld
            self.holder_ident = None if self.unheld is LoopState.STOPPED else 0
        else:
            self.state = LoopState.HELD
        waking = self.waking
        if waking is not None and (waking not in self.lwps or waking.state is not LwpState.WOKEN):
            self.waking = None
        here = os_ident()
        wake: list[LWP | Action] = []
        for lwp in list(self.lwps):
            starter = self.starting.get(lwp)
            if starter is not None:
                if starter == here and not lwp.launched:
                    wake.append(lwp)  # this thread was about to start it
            elif lwp.state is LwpState.WOKEN:
                wake.append(lwp)
            elif lwp.state is LwpState.BLOCKED and lwp in self.awaiting and self.awaiting[lwp]():
                wake.append(lwp)  # it was about to be handed the loop
            else:
                self._requeue(lwp)
        successor = self.offer()
        if successor is not None and successor not in wake:
            wake.append(successor)
        return wake

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
        elif lwp.state is LwpState.PARKED and lwp.bound_steps:
            self.unqueue(lwp)
            self.park(lwp)

    def send_all(self, wake: list[LWP | Action]) -> None:
        """Tell all of them; without the mutex."""
        for each in wake:
            self.send(each)
