"""Suspending: a step waits for what another step of the loop will *hand* it (``block_on``, ``loop/awaiting.py``).

It leaves the loop as a step that blocks does, sleeps in no queue, and is granted the loop at the boundary after the
step that has handed it on: one wake-up in all.  What it waits for is the loop's own doing, and may take another such
step: so those that wait do not count against ``max_lwps`` (``Record.awaiting``).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from .carrying import Carrying
from .lwp import LWP, LwpState
from .record import LoopState
from .waking import HOME_NAP


def suspend(carrying: Carrying, lwp: LWP, is_over: Callable[[], bool]) -> bool:
    """The LWP's step, which holds the loop, waits without it for what another step will ``hand`` it.

    Args:
        carrying: who carries the loop.
        lwp: whose step it is.  It calls this itself.
        is_over: whether the wait is over.  Any thread may ask, also under the mutex.

    Returns:
        Whether it has waited, and holds the loop again; False if the system has no resources for another thread.
        What it waits for may not have come: the home returns early for a signal handler.

    Raises:
        RuntimeError: the process is a forked child.
    """
    with carrying.mutex:
        outer = carrying.awaiting.get(lwp)  # of the step, where a signal handler waits in the middle of that
        carrying.awaiting[lwp] = is_over
        carrying.awaits += 1
    try:
        if not carrying.leave(lwp, LwpState.BLOCKED):
            carrying.awaits -= 1
            return False
        carrying.replenish()
        _sleep_until(carrying, lwp, is_over)
        if lwp.state is not LwpState.BLOCKED:
            lwp.wake()  # it was granted the loop, and has heard the ring for that already
        carrying.rejoin(lwp)
        if carrying.summoned is not None and lwp is carrying.home:  # it has come back for that
            carrying.heed(lwp)
    finally:
        with carrying.mutex:
            if outer is None:
                carrying.awaiting.pop(lwp, None)
            else:
                carrying.awaiting[lwp] = outer
    return True


def _sleep_until(carrying: Carrying, lwp: LWP, is_over: Callable[[], bool]) -> None:
    home = lwp is carrying.home
    while not is_over() and carrying.state is not LoopState.FORKED:
        if home and (lwp.interrupt is not None or carrying.summoned is not None):
            return
        if home and carrying.mailed:
            carrying.serve()
        try:
            lwp.sleep(HOME_NAP if home else -1)
        except BaseException as exc:  # R4
            carrying.note_interrupt(lwp, exc)


def hand(carrying: Carrying, lwp: LWP) -> None:
    """What a suspended step waits for has come: it is the next to get the loop.

    A step calls this, or whoever closes the loop.  If a signal handler runs on the LWP meanwhile, or waits there for
    something else, the step finds out by itself when that has returned.
    """
    try:
        with carrying.mutex:
            is_over = carrying.awaiting.get(lwp)
            if lwp.state is not LwpState.BLOCKED or is_over is None or not is_over():
                return
            carrying.queue_as_returning(lwp, -math.inf)
            successor = carrying.offer()
        carrying.send(successor)
    except BaseException:
        carrying.repair()
        raise
