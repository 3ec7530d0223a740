"""Order: questions about a record, which change nothing.  The mutex is held, unless a line says otherwise."""

from __future__ import annotations

import math

from ..platform.clock import monotonic
from .lwp import LWP, WAITING, LwpState
from .record import HOME_BOUND, RETURN_BOUND, LoopState, Record

EXECUTING = (LwpState.RUNNING, LwpState.MARKED, LwpState.POLLING)
"""The states of a holder that is not on its way."""

HOLDING = (*EXECUTING, LwpState.WOKEN)
"""The states that a holder can be in."""

_STEPS = (LwpState.RUNNING, LwpState.MARKED, LwpState.BLOCKED)

# ---------------------------------------------------------------- what the loop has to do


def has_work(record: Record) -> bool:
    """Whether something is ready to run.  Any thread, without the mutex."""
    return bool(record.ready) or record.stopping


def next_deadline(record: Record) -> float:
    """When the earliest timer is due, in the loop's time; infinity if there is none.  Any thread, without the mutex."""
    try:
        return float(record.timers[0]._when)
    except IndexError:
        return math.inf


def can_stop(record: Record) -> bool:
    """Whether the home is there to stop the loop: it is not blocked.  Any thread, without the mutex."""
    home = record.home
    return home is None or home.state is not LwpState.BLOCKED


def is_wanted_by_others(record: Record, lwp: LWP) -> bool:
    """Whether anybody but an LWP wants the loop; if not, its step need not be preempted.  Any thread, without the
    mutex."""
    if record.returning or record.preempted or record.due is not None or has_work(record):
        return True
    # Nobody polls while it runs: what the kernel has ready is not known.
    return record.host.turns.has_input()


# ---------------------------------------------------------------- who gets the loop


def due_lwp(record: Record, lwp: LWP, now: float) -> LWP | None:
    """Who has to get the loop from its holder now, whatever is ready."""
    home = record.home
    if home is not None and home is not lwp and home.state in WAITING:
        if record.is_home_wanted():
            return home
        # Counted from when the loop left it: it may have polled since, or been woken in vain.
        if home.state is LwpState.PARKED and now - record.away_since >= HOME_BOUND:
            return home
    if record.returning and is_late_return(record, now):
        return record.returning[0]
    return None


def is_late_return(record: Record, now: float) -> bool:
    """Whether the first of those that return has waited for so long that nobody may barge in front of it."""
    return now - record.returning[0].since >= RETURN_BOUND


def soonest_poll(record: Record) -> float:
    """Until when somebody polls at least, of those that do."""
    return min(poller.deadline for poller in record.pollers)


def owes(record: Record) -> bool:
    """Whether a step of the home that is under way has to raise something, or to be interrupted by a handler.  Any
    thread, without the mutex."""
    home = record.home
    if home is None or home.handle is None or home.state not in _STEPS:
        return False
    return home.interrupt is not None or record.summoned is not None


# ---------------------------------------------------------------- whether somebody comes


def is_sound(record: Record, holder: LWP | None) -> bool:
    """Whether a holder is one: it runs, polls, or is on its way."""
    return holder is not None and holder in record.lwps and holder.state in HOLDING


def is_at_rest(record: Record) -> bool:
    """Whether a loop that nobody holds may stay so: polled, all blocked, or stopped.  Without the mutex."""
    if record.returning or record.waking is not None:
        return False
    if record.pollers:
        return not has_work(record)
    if record.refused and monotonic() >= record.refused:
        return False
    return record.exhausted or record.state is not LoopState.FREE


def is_expected(record: Record) -> bool:
    """Whether somebody has to come for the loop: until then the sampler does not sleep deeply.  Without the mutex."""
    holder = record.holder
    return holder.state is LwpState.WOKEN if holder is not None else not is_at_rest(record)
