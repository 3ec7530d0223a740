"""Nesting: a step runs an event loop to its end, as synchronous code does that was not written for coroutines.

asyncio refuses it.  A loop of ours allows it where ``Config(nested=True)`` says so, or nest_asyncio was applied:

* ``run_until_complete`` *on the running loop* is ``block_on``: the future is completed by the loop itself, which
  continues meanwhile, and rule 1 holds as ever.  Where the loop cannot move (mode "observe", a loop that stays with its
  greenlet) the step runs the loop itself until the future is done, and nobody leaves meanwhile.
* *Another loop*, while one runs: to that one it is a ``blocking()`` region of its step.  ``asyncio.run`` and ``Runner``
  have a loop of their own: who calls them owns the loop, and expects it to be closed in the end, with all of its tasks.
  asgiref's ``async_to_sync`` has its coroutine run elsewhere, and waits for that.

nest_asyncio's ``apply()`` replaces ``run_forever`` and its kin in the class of a loop, by functions that take every
step on top of the one that asks.  These would poll and run steps without a word to the protocol.  So our loops say to
``apply()`` that they have been patched (``_nest_patched``), and nest in their own way.  Its ``asyncio.run``, which it
also replaces, is ``run_until_complete`` on the running loop.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
from asyncio import base_events, events, futures, runners
from asyncio.tasks import _swap_current_task  # type: ignore[attr-defined]
from collections.abc import Callable, Iterator
from typing import Any

from ..detector import catalogue
from ..platform.patches import Patch
from ..platform.threads import os_ident
from ..protocol.lwp import IN_POLL, LWP, current
from ..reactions.regions import blocking
from .awaiting import block_on, refusal

_IN_POLL = "run_until_complete() in a protocol's method on uvloop: nothing else can run there"
_NO_SPARE = "run_until_complete() in a step needs another thread to carry the loop (%s)"

_allowing: list[Patch] = []
"""What has been replaced in asyncio, since a loop was made that allows nesting."""


def applied() -> bool:
    """Whether nest_asyncio, or nest_asyncio2, has been applied to anything."""
    return hasattr(asyncio, "_nest_patched")


def is_allowed(running: Any) -> bool:
    """Whether a step of the running loop may run a loop: None if no loop runs."""
    return running is not None and (applied() or is_nested(running))


def is_nested(running: Any) -> bool:
    """Whether the running loop was made to allow it; None if no loop runs."""
    return getattr(getattr(running, "config", None), "nested", False) is True


def allow() -> None:
    """A loop was made that allows nesting: have asyncio's own functions not refuse it in its steps."""
    if _allowing:
        return
    for owner, name in (
        (asyncio, "run"),
        (runners, "run"),
        (runners.Runner, "run"),
        (runners.Runner, "close"),
        (base_events.BaseEventLoop, "run_until_complete"),
    ):
        _allowing.append(Patch(owner, name, _aside_of_step(getattr(owner, name))))
    catalogue.when_imported("asgiref.sync.AsyncToSync", _async_to_sync)


def _async_to_sync(kind: Any) -> None:
    Patch(kind, "__call__", _aside_of_step(kind.__call__))


def _aside_of_step(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which runs another loop, called as by a thread without a loop."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        running = events._get_running_loop()
        if not is_nested(running) or (args and args[0] is running):
            return function(*args, **kwargs)
        return aside(functools.partial(function, *args, **kwargs))

    return called


def aside[T](function: Callable[[], T]) -> T:
    """Call what runs another loop in a step: as by a thread without a loop, and the step is blocked meanwhile."""
    with blocking(), _aside():
        return function()


def run(loop: Any, future: Any) -> Any:
    """As ``run_until_complete``, while a loop runs on the calling thread.

    Raises:
        RuntimeError: the loop runs elsewhere, or it cannot be nested here.
        BaseException: what the future raises.
    """
    running: Any = events._get_running_loop()
    lwp = current.get(os_ident())
    if running is not loop:
        return aside(lambda: loop.run_until_complete(future))
    if lwp is None or lwp.carrying is not loop._carrying or lwp.handle is None or lwp.region:
        raise RuntimeError("This event loop is already running")
    waits = _may_wait(loop, lwp)
    made = not futures.isfuture(future)
    future = asyncio.ensure_future(future, loop=loop)
    if made:
        future._log_destroy_pending = False
    if waits:
        return block_on(future)
    turns = loop._turns
    with _in_place(loop, lwp):
        while not future.done() and not loop._stopping:
            lwp.handle = None
            turns.run(lwp, loop._poll.wait(turns.timeout()))
            _heed(loop, lwp)
    if not future.done():
        raise RuntimeError("Event loop stopped before Future completed.")
    return future.result()


def _heed(loop: Any, home: LWP) -> None:
    """Between two turns that a step runs itself: do what is wanted of the home, which has no other LWP beside it.

    Raises:
        BaseException: what a signal handler has raised meanwhile.
    """
    carrying = loop._carrying
    if carrying.summoned is not None:
        carrying.host.home_side.catch_up(home)
    if carrying.mailed:
        carrying.serve()
    loop._reactions.interrupt(home)


def _may_wait(loop: Any, lwp: LWP) -> bool:
    """Whether the step can wait while the loop moves on; if not, it can run the loop itself.

    Raises:
        RuntimeError: neither.
    """
    if lwp.handle is IN_POLL:
        raise RuntimeError(_IN_POLL)
    refused = refusal(lwp, loop)
    if refused is not None and len(loop._carrying.lwps) > 1:
        raise RuntimeError(_NO_SPARE % refused)
    return refused is None


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
