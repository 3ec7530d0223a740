"""Polling: how a holder with nothing to run waits for events.  There are two ways, and a loop has one of them.

**Claimed polls.**  A poll is a mere wait, during which others may use the loop.  The holder sets the loop FREE and
polls.  When its poll returns and the loop is still FREE it takes it.  If another was faster, it drops its events (they
are level-triggered: the kernel still has them) and parks.  If others held the loop meanwhile, its events may be stale
(a file descriptor may have been closed and reused), so it polls once more, for no time at all, while it holds.

**Held polls** are for engines whose poll is more than a wait.  When uvloop's wait has ended, ``uv_run`` goes on with
the loop's structures before it asks for the GIL.  ``select`` and ``poll``, where there is neither epoll nor kqueue, do
not see what others register meanwhile.  Three moves differ:

* *Idle.*  A holder for whom nobody waits polls **while it holds**: HELD, and the LWP is POLLING.  If somebody waits (a
  parked home, one that returns), the holder sets the loop FREE, wakes that one, and parks.
* *Leave.*  Nobody can be in the poll, since a step was running; so an LWP has to be woken for each block.
* *Return.*  Whoever needs the loop while the holder polls queues, and breaks the poll (``Waking.poke_holder``).  The
  holder runs what the poll has brought, finds somebody in a queue when it is about to idle, and does as above.

FREE then implies a wake in flight.  Nothing is missed: the holder looks at the queues and becomes POLLING under the
mutex, whoever queues later sees it POLLING under the mutex, and the byte in the self-pipe stays there until a poll has
read it.  Inside of such a poll the engine calls the program's protocols.  A call that blocks there is no *leave*: the
LWP remains the holder, its state unchanged, and the block is merely reported.
"""

from __future__ import annotations

import enum
from typing import Any

from ..platform.clock import monotonic
from . import order
from .lwp import LWP, LwpState
from .record import LoopState
from .waking import Action, Waking


class Missed(enum.Enum):
    """What a holder is left with that has nothing to run, and no events either."""

    CLAIMED = "claimed"
    """Another LWP has taken the loop during its poll."""
    PARKED = "parked"
    """It did not poll: it is queued, and only has to sleep."""


def poll(record: Waking, lwp: LWP, timeout: float | None) -> Any:
    """The holder has nothing to run: poll.

    Returns:
        Events, with which the LWP holds the loop; or a :class:`Missed`, with which it does not.
    """
    if len(record.lwps) == 1:
        return _poll_alone(record, lwp, timeout)
    if record.claimable:
        if not _idle(record, lwp):
            return Missed.PARKED
        events = record.host.poll.wait(timeout)
        if not claim(record, lwp):
            return Missed.CLAIMED
        return record.host.poll.wait(0) if record.stale else events
    if not _keep(record, lwp):
        return Missed.PARKED
    events = record.host.poll.wait(timeout)
    with record.mutex:
        record.resume(lwp)
    record.host.luggage.resumed()
    return events


def _poll_alone(record: Waking, lwp: LWP, timeout: float | None) -> Any:
    """Nobody else could take the loop: another LWP comes into being only by a step of this one."""
    lwp.state = LwpState.POLLING
    record.holder_ident = 0
    events = record.host.poll.wait(timeout)
    record.holder_ident = lwp.ident
    lwp.state = LwpState.RUNNING
    record.host.luggage.resumed()
    if record.stale:  # it was excused meanwhile
        record.stale = False
        events = record.host.poll.wait(0)
    return events


def _idle(record: Waking, lwp: LWP) -> bool:
    """Set the loop free.

    Returns:
        Whether the LWP shall poll; if not, it is parked already, and only has to sleep.
    """
    deadline = order.next_deadline(record)
    successor: LWP | Action | None = None
    home = record.home
    with record.mutex:
        record.free()
        if home is not None and home is not lwp and home.state is LwpState.PARKED and record.waking is None:
            successor = record.awaken(home)
            polls = False
        else:
            polls = not record.pollers or lwp is home
            if record.returning and record.waking is None:
                successor = record.awaken(record.returning[0])
            elif (not polls and deadline < order.soonest_poll(record)) or record.is_unheard():
                successor = Action.BREAK_POLL
        if polls:
            lwp.deadline = deadline
            lwp.state = LwpState.POLLING
            record.pollers.append(lwp)
        else:
            record.park(lwp)
    record.send(successor)
    return polls


def claim(record: Waking, lwp: LWP) -> bool:
    """The LWP's poll has ended: take the loop if it is free.  Returns whether the LWP holds it now."""
    with record.mutex:
        record.pollers.remove(lwp)
        lwp.state = LwpState.WOKEN
        if record.state is not LoopState.FREE:
            return False
        record.stale = record.last is not lwp
        record.take(lwp)
        return True


def _keep(record: Waking, lwp: LWP) -> bool:
    """Keep the loop for a poll, if nobody waits for it.

    Returns:
        Whether the LWP shall poll; if not, the loop is free, and it is parked already and only has to sleep.
    """
    successor = None
    with record.mutex:
        home = record.home
        waits = home is not None and home is not lwp and home.state is LwpState.PARKED
        due = order.due_lwp(record, lwp, monotonic())
        if due is None and not waits and not record.returning:
            lwp.state = LwpState.POLLING
            record.holder_ident = 0
            return True
        if due is not None:
            successor = record.grant(due)
        else:
            record.free()
            if record.waking is None:
                successor = record.awaken(home if waits and home is not None else record.returning[0])
        record.park(lwp)
    record.send(successor)
    return False
