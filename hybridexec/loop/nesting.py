"""Nesting: ``run_until_complete`` in a step, where nest_asyncio has allowed it.

nest_asyncio's ``apply()`` replaces ``run_forever`` and its kin in the class of a loop, by functions that take every
step on top of the one that asks.  These would poll and run steps without a word to the protocol.  So our loops say to
``apply()`` that they have been patched (``_nest_patched``), and nest in their own way:

* *On the running loop*: the step waits for the future as in any call that blocks, the loop moves on without it, and
  rule 1 holds as ever.  Where the loop cannot move (mode "observe", a loop that stays with its greenlet) the step runs
  the loop itself until the future is done, and nobody leaves meanwhile.
* *Another loop, while one runs*: to that one it is a ``blocking()`` region of its step.

Without ``apply()`` all this raises what it raises on asyncio.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import sys
from asyncio import events, futures
from asyncio.tasks import _swap_current_task  # type: ignore[attr-defined]
from collections.abc import Iterator
from typing import Any

from ..platform.threads import os_ident
from ..protocol.lwp import IN_POLL, LWP, Bell, current
from ..reactions.regions import blocking

_IN_POLL = "run_until_complete() in a protocol's method on uvloop: nothing else can run there"
_NO_SPARE = (
    "run_until_complete() in a step needs another thread to carry the loop: it must not move here (pinned, a "
    "greenlet), or max_lwps are blocked"
)


def applied() -> bool:
    """Whether nest_asyncio, or nest_asyncio2, has been applied to anything."""
    return hasattr(asyncio, "_nest_patched")


def run(loop: Any, future: Any) -> Any:
    """As ``run_until_complete``, while a loop runs on the calling thread.

    Raises:
        RuntimeError: the loop runs elsewhere, or it cannot be nested here.
        BaseException: what the future raises.
    """
    running: Any = events._get_running_loop()
    lwp = current.get(os_ident())
    if running is not loop:
        with blocking(), _aside():
            return loop.run_until_complete(future)
    if lwp is None or lwp.carrying is not loop._carrying or lwp.handle is None or lwp.region:
        raise RuntimeError("This event loop is already running")
    waits = _may_wait(loop, lwp)
    made = not futures.isfuture(future)
    future = asyncio.ensure_future(future, loop=loop)
    if made:
        future._log_destroy_pending = False
    if waits:
        _wait(loop, lwp, future)
    else:
        turns = loop._turns
        with _in_place(loop, lwp):
            while not future.done() and not loop._stopping:
                lwp.handle = None
                turns.run(lwp, loop._poll.wait(turns.timeout()))
    if not future.done():
        raise RuntimeError("Event loop stopped before Future completed.")
    return future.result()


def _may_wait(loop: Any, lwp: LWP) -> bool:
    """Whether the step can wait while the loop moves on; if not, it can run the loop itself.

    Raises:
        RuntimeError: neither.
    """
    if lwp.handle is IN_POLL:
        raise RuntimeError(_IN_POLL)
    spares = len(loop._carrying.detached) < loop.config.max_lwps - 1
    if spares and loop._reactions.moves(lwp, sys._getframe(2)):
        return True
    if len(loop._carrying.lwps) > 1:
        raise RuntimeError(_NO_SPARE)
    return False


def _wait(loop: Any, lwp: LWP, future: asyncio.Future[Any]) -> None:
    """Wait without the loop until a future is done, or a signal handler has raised."""
    bell = Bell()

    def wait() -> None:
        while not future.done() and lwp.interrupt is None:
            bell.wait()

    future.add_done_callback(lambda _: bell.ring())
    loop._shield.waiting.add(bell)
    try:
        loop._mailbox.wait(lwp, "run_until_complete", wait, sure=True)
    finally:
        loop._shield.waiting.discard(bell)
    loop._reactions.interrupt(lwp)


@contextlib.contextmanager
def _in_place(loop: Any, lwp: LWP) -> Iterator[None]:
    """The step runs the loop itself, which must not leave the LWP meanwhile."""
    outer = lwp.handle, lwp.watch.call, lwp.luggage.pin_step, lwp.luggage.pin_count
    task = _swap_current_task(loop, None)
    collections.deque(loop._carrying.batch, maxlen=0)  # what is left of the batch that the step is in, is taken here
    lwp.watch.call = None
    loop._reactions.affinity.nested += 1
    loop._reactions.judge()
    try:
        yield
    finally:
        loop._reactions.affinity.nested -= 1
        loop._reactions.judge()
        loop._carrying.batch = iter(range(0))
        lwp.handle, lwp.watch.call, lwp.luggage.pin_step, lwp.luggage.pin_count = outer
        lwp.slow_exit = True  # the step is no longer what it was
        _swap_current_task(loop, task)


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """No loop runs on this thread, and no task; where ``blocking()`` has not seen to that."""
    running = events._get_running_loop()
    if running is None:
        yield
        return
    task = _swap_current_task(running, None)
    events._set_running_loop(None)
    try:
        yield
    finally:
        events._set_running_loop(running)
        _swap_current_task(running, task)
