"""Borrowing: the home has the loop for a signal handler, which is the loop's code (``signals/handlers.py``).

A home whose step is without the loop *borrows* it in the middle of its call: it queues first of all, and leaves again.
One without a step is *summoned*: it queues as one that returns, and calls the handler before anything else.  A step
that computes meanwhile *lends* the loop to a home that waits, and is the first to get it back.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable

from ..platform.clock import monotonic
from . import order
from .carrying import Carrying
from .lwp import IN_POLL, LWP, WAITING, LwpState
from .record import LoopState
from .waking import HOME_NAP

LAST_BOUND = 1.0
"""Seconds after which a signal handler is called without the loop, whatever keeps that, or the home from it: mostly a
machine that is busy.  (The sampler gives up sooner where a step keeps the loop that lends nothing.)"""


class Turn(enum.Enum):
    """Where a signal handler can be called."""

    HERE = "here"
    """At once."""
    MARKED = "marked"
    """At once; the call that it interrupts is to be marked again when it has returned."""
    BORROWED = "borrowed"
    """Here, when the home has borrowed the loop for it."""
    LATER = "later"
    """When the home holds the loop."""


def turn_of(carrying: Carrying, *, half_way: bool) -> Turn:
    """A signal handler of the home's is due: can it be called where it has come?

    A call that is marked is no longer so: no sampler is to retake the loop while the handler runs.

    Args:
        carrying: who carries the loop.
        half_way: whether it has come in the middle of this package's own code.
    """
    inside = carrying.inside()
    with carrying.mutex:
        home = carrying.home
        if home is None or carrying.state is LoopState.FORKED:
            return Turn.HERE
        if home.handle is IN_POLL:
            return Turn.LATER if half_way else Turn.HERE
        if carrying.holder is home and home.state in (LwpState.RUNNING, LwpState.MARKED):
            home.watch.interrupted()
            if home.state is LwpState.RUNNING:
                return Turn.HERE
            home.state = LwpState.RUNNING
            return Turn.MARKED
        if inside:
            return Turn.LATER
        excused = carrying.handler is not None and carrying.handler.duty is not None
        if home.state is LwpState.BLOCKED and home.handle is not None and not half_way and not excused:
            return Turn.BORROWED
        return Turn.HERE if excused or _is_late(carrying) else Turn.LATER


def _is_late(carrying: Carrying) -> bool:
    return carrying.summoned is not None and monotonic() - carrying.summoned >= LAST_BOUND


def mark_again(carrying: Carrying, home: LWP, still: Callable[[], bool]) -> None:
    """A signal handler that has interrupted a marked call has returned, and that call continues.

    Args:
        carrying: who carries the loop.
        home: the home.
        still: whether it is in that call.  Called under the mutex.
    """
    with carrying.mutex:
        if carrying.holder is home and home.state is LwpState.RUNNING and still():
            home.state = LwpState.MARKED


def borrow(carrying: Carrying) -> bool:
    """The home's step is BLOCKED, and a signal handler interrupts its call: hold the loop, or wait for it.

    Returns:
        Whether the loop is held; False if it cannot be had within the bound.  The home gives it back in any case, also
        if this raises.
    """
    home = carrying.home
    assert home is not None
    while True:
        with carrying.mutex:
            carrying.arrived(home)
            if carrying.holder is home or carrying.is_claimable():
                exhausted = carrying.exhausted
                carrying.unqueue(home)
                carrying.take(home)
                carrying.exhausted = exhausted  # it gives it back at once
                return True
            if carrying.summoned is None:
                carrying.summoned = monotonic()
            if _is_late(carrying) or carrying.state is LoopState.FORKED:
                carrying.unqueue(home)
                home.state = LwpState.BLOCKED
                return False
            home.state = LwpState.RETURNING
            if home not in carrying.returning:
                carrying.queue_as_returning(home, -math.inf)
            poked = carrying.poke_holder()
        carrying.send(poked)
        if carrying.mailed:
            carrying.serve()
        try:
            home.sleep(HOME_NAP)
        except BaseException as exc:
            carrying.note_interrupt(home, exc)


def give_back(carrying: Carrying, home: LWP) -> None:
    """The home's step is in its call again, and without the loop, wherever an exception has found it meanwhile.

    Unlike a move that leaves the loop this one cannot be refused: the call is under way.
    """
    with carrying.mutex:
        if carrying.state is LoopState.FORKED:
            return
        if carrying.holder is home:
            if home in carrying.detached:
                carrying.take(home)  # it was broken off: it is made whole before it is undone
            carrying.detached.add(home)
            carrying.free()
        carrying.unqueue(home)
        home.state = LwpState.BLOCKED
        wake = carrying.mend()
    carrying.send_all(wake)


def summon(carrying: Carrying) -> None:
    """A signal handler cannot be called where its signal has come: the home is to call it when it has the loop.

    The home calls this, wherever it is, maybe inside of the mutex: so nothing changes that others rely on.
    """
    home = carrying.home
    if carrying.summoned is None:
        carrying.summoned = monotonic()
    if home is not None:
        _hurry(carrying, home)
        home.wake()
        carrying.host.turns.break_poll()


def _hurry(carrying: Carrying, home: LWP) -> None:
    if carrying.holder is not home:
        carrying.due = -math.inf


def hasten(carrying: Carrying) -> None:
    """A signal handler waits for the home: see that it hears of that.  The sampler asks."""
    home = carrying.home
    if home is None or carrying.summoned is None:
        return
    _hurry(carrying, home)
    if home.state is LwpState.POLLING:
        carrying.host.turns.break_poll()
    elif home.state in WAITING and _is_late(carrying):
        carrying.mail_home()


def give_up(carrying: Carrying) -> None:
    """Nobody lends the loop to the home for a signal handler: it is to be called without.  The sampler asks."""
    if carrying.summoned is not None:
        carrying.summoned = -math.inf
        hasten(carrying)


def lend(carrying: Carrying, lwp: LWP) -> None:
    """The holder's step is interrupted for a signal handler: the home has the loop until that has returned."""
    with carrying.mutex:
        home = carrying.home
        if carrying.summoned is None or carrying.holder is not lwp or home is None or home.state not in WAITING:
            return
        lwp.slow_exit = lwp.lost_loop = True
        carrying.batch_unfinished = carrying.batch.__length_hint__() > 0
        carrying.detached.add(lwp)
        target = carrying.grant(home)
        carrying.queue_as_returning(lwp, -math.inf)
    carrying.send(target)
    carrying.wait(lwp, LwpState.RETURNING)


def remind(carrying: Carrying) -> None:
    """See that the home's step raises what was put off, and that signal handlers are called while others compute.  The
    sampler calls this at each look."""
    home = carrying.home
    if carrying.summoned is not None:
        hasten(carrying)
    if order.owes(carrying):
        carrying.host.home_side.remind()
    elif home is not None and home.state is LwpState.BLOCKED:
        carrying.host.home_side.heed()
