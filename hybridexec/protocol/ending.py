"""Ending: a loop is closed, or this process turns out to be a forked child."""

from __future__ import annotations

import weakref

from .carrying import Carrying
from .host import Host
from .lwp import LWP, LwpState
from .record import LoopState
from .waking import Action


def close(carrying: Carrying) -> None:
    """Wait until every LWP has finished its step, and end them all.  The loop is stopped."""
    with carrying.mutex:
        if carrying.state is LoopState.FORKED:
            return
        carrying.unheld = LoopState.DRAINING
        if carrying.state is not LoopState.HELD:  # held: by a step that drains; a close before was interrupted
            carrying.state = LoopState.DRAINING
        wake: list[LWP | Action | None] = [carrying.rouse(lwp) for lwp in carrying.parked]
        carrying.parked.clear()
        wake += carrying.mend()  # a close before may have been broken off
        wake.append(Action.BREAK_POLL)
    for successor in wake:
        carrying.send(successor)
    for _ in carrying.pool.ended():
        if carrying.mailed:
            carrying.serve()


def abandon_blocked(carrying: Carrying) -> bool:
    """Close the loop without the LWPs that are blocked: they never get it again.

    Returns:
        Whether all that are left are blocked; else one is on its way, and nothing has changed.
    """
    with carrying.mutex:
        if any(lwp.state is not LwpState.BLOCKED for lwp in carrying.lwps) or carrying.holder is not None:
            return False
        nobody = LWP(carrying, "nobody")
        nobody.state = LwpState.RUNNING
        carrying.hold(nobody)
        carrying.lwps.clear()
    return True


def loosen(carrying: Carrying) -> None:
    """The loop is closed: its parts refer to one another weakly from now on, so that it is freed with its last user."""
    host = carrying.host
    carrying.host = Host(
        poll=weakref.proxy(host.poll),
        turns=weakref.proxy(host.turns),
        luggage=weakref.proxy(host.luggage),
        home_side=weakref.proxy(host.home_side),
        voice=weakref.proxy(host.voice),
        equip=_equip_nobody,
    )
    carrying.pool.loosen(weakref.proxy(carrying))
    carrying.forget_homes()


def _equip_nobody(lwp: LWP) -> None:
    raise RuntimeError("a closed loop has no new LWPs")


def fork(carrying: Carrying) -> None:
    """This process is a child of the one that the LWPs live in."""
    carrying.holder = None
    carrying.reset(LoopState.FORKED)
