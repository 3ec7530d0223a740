"""Excused: the home blocks in a signal handler while it polls, or waits for the loop.

The others rely on such a home: it is the one that polls, or the next to be woken.  The sampler takes it out of all that
the others look at (BLOCKED), and frees the loop if it was the home's.  When the handler has returned the home does
again what it did: it polls (with the loop, if it had it then), or looks why it was woken.
"""

from __future__ import annotations

from typing import Any

from ..platform.clock import monotonic
from .carrying import Carrying
from .handler import Handler
from .lwp import LwpState


def excuse(carrying: Carrying, handler: Handler, call: Any, *, moves: bool) -> bool:
    """The home blocks in a signal handler, where it has no step: nobody is to rely on it until that returns.

    Args:
        carrying: who carries the loop.
        handler: the handler, as the sampler has seen it.
        call: what it blocks in.
        moves: whether anything is done about it.

    Returns:
        Whether it still holds; the end of the call will be reported then.
    """
    if not carrying.mutex.acquire(blocking=False):
        return False  # maybe it is the home's: the handler has interrupted the protocol
    home = carrying.home
    try:
        if carrying.handler is not handler or not handler.relied or handler.duty is not None or home is None:
            return False
        handler.call = call
        alone = home.state is LwpState.POLLING and carrying.holder is home
        if not moves or (alone and not carrying.claimable):
            return True
        relied = home in (carrying.holder, carrying.waking, *carrying.pollers)
        # First what report_back() goes by: it undoes what follows, also where an exception has broken that off.
        handler.had_step = home in carrying.detached
        handler.duty = LwpState.RUNNING if alone else home.state
        home.state = LwpState.BLOCKED
        carrying.handoffs += 1
        if alone:
            carrying.free()
        elif carrying.holder is home:  # it was granted the loop, and has not come yet
            carrying.state = carrying.unheld
            carrying.holder, carrying.holder_ident = None, 0
        carrying.detached.add(home)
        carrying.arrived(home)
        carrying.unqueue(home)
        successor = carrying.successor() if relied and carrying.is_claimable() else None
    except BaseException:
        if home is not None and home.state is not LwpState.BLOCKED:
            handler.duty = None  # nothing has changed yet: the next look tries again
        raise
    finally:
        carrying.mutex.release()
    carrying.send(successor)
    return True


def report_back(carrying: Carrying, handler: Handler) -> Any:
    """The home's signal handler has returned: the home does again what it did.  Returns what it has blocked in, once.

    What an exception has broken off of it can be done once more.
    """
    successor, waits = None, False
    with carrying.mutex:
        carrying.handler = handler.outer
        home = carrying.home
        if handler.duty is not None and home is not None:
            if not handler.had_step:
                carrying.detached.discard(home)
            if handler.duty is LwpState.POLLING:
                home.state = LwpState.POLLING
                if home not in carrying.pollers:
                    carrying.pollers.append(home)
            elif handler.duty is not LwpState.RUNNING:
                home.state = LwpState.WOKEN
            elif carrying.holder is home:
                carrying.take(home)  # it was broken off
            else:
                waits = True
                # At once: from here on others may count on it again, also while another handler interrupts this.
                carrying.unqueue(home)
                carrying.queue_as_returning(home, monotonic())
                successor = carrying.successor() if carrying.is_claimable() else None
    if handler.duty is not None and home is not None:
        if handler.duty is LwpState.RUNNING:
            if waits:
                carrying.send(successor)
                carrying.wait(home, LwpState.RETURNING)
            with carrying.mutex:
                carrying.stale = True  # what its poll has found, if that had ended when the signal came
                home.state = LwpState.POLLING
                carrying.holder_ident = 0
        elif home.state is LwpState.WOKEN:
            home.wake()
        carrying.host.turns.break_poll()  # it may last too long by now, and others may have something to tell it
    call, handler.call = handler.call, None
    return call
