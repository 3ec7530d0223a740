"""Following: what belongs to the loop, and goes with it from thread to thread.

The protocol says when an LWP gives the loop up (``detach``) and when one holds it (``attach``); each of the parts does
its own about it.  This file has their order, and what is too small for a file: the current task, the running loop, the
hooks of async generators.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from asyncio import constants, events
from collections.abc import Callable
from logging import ERROR
from typing import Any

from .._core.fields import FollowingFields
from ..observing.log import Trouble, say
from ..platform import children
from ..platform.threads import os_ident
from ..protocol.carrying import Carrying
from ..protocol.lwp import LWP, Region
from . import rlocks, thread_locals
from .attributes import Attributes
from .connections import Connections
from .conversations import Conversations
from .identity import get_ident
from .marks import SNIFFIO, Marks
from .tasks import TASKS
from .tracers import Tracers

# Before 3.14 the current task is a property of the loop, so a step that leaves takes it along; since 3.14 it is one of
# the thread, and stays with it, but for asyncio's tasks in Python.
_current_tasks: dict[Any, Any] = asyncio.tasks._current_tasks  # type: ignore[attr-defined]

_refusals = Trouble("other LWPs could not have their loop's affinity and priority, either (%d)")


class Following(FollowingFields):
    """What follows one loop.  The protocol's ``Luggage``.

    Args:
        loop: the loop.
        carrying: who carries it.
        attributes: what its steps have asked the system for.
        connections: the sqlite3 connections of its steps.
        locks: the RLocks that are the loop's.
        look: wakes the sampler.
        watch: has the sampler look at the loop, if it does not.

    Attributes:
        conversations: whose steps wait for one that blocks.
        rlocks: the RLocks that are the loop's.
        tracers: its tracer and its profiler.
        values: the home's thread-locals; None where they cannot be shared.
    """

    values: thread_locals.Values | None

    def __init__(
        self,
        loop: Any,
        carrying: Carrying,
        attributes: Attributes,
        connections: Connections,
        locks: rlocks.RLocks,
        look: Callable[[], None],
        watch: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._carrying = carrying
        self._attributes = attributes
        self._connections = connections
        self._watch = watch
        weak: Any = weakref.proxy(self)
        self.tracers = Tracers(lambda text: weak._loop.call_soon(say, ERROR, text))
        self.conversations = Conversations()
        self._marks = Marks()
        self.rlocks = locks
        self.values = None
        self._away, self._held = self.conversations.away, locks.held
        self.look = look

    def loosen(self, loop: Any) -> None:
        """The loop is closed: refer to it by this from now on."""
        self._loop = loop

    # ---------------------------------------------------------------- what the protocol asks (host.Luggage)

    def detach(self, lwp: LWP, *, with_step: bool) -> None:
        """The LWP gives up the loop, maybe in a step, which continues without it."""
        if with_step:
            leaves = getattr(lwp.handle, "leaves", None)
            self._loop._send_queued()
            if leaves is not None:  # a callback of a file descriptor is in flight from now on
                leaves()
            if not isinstance(getattr(getattr(lwp.handle, "_callback", None), "__self__", None), TASKS):
                self.conversations.left(lwp)
            if self.values is not None and SNIFFIO in sys.modules:
                self._marks.leaver = lwp
            lwp.luggage.task = _current_tasks.pop(self._loop, None)
            if thread_locals.IN_DICTIONARY:
                lwp.luggage.wardrobe.left(self.values)
            if self.rlocks.held:
                self.rlocks.follow(rlocks.NOBODY)
        self.tracers.given(lwp)

    def attach(self, lwp: LWP, *, with_step: bool) -> None:
        """The LWP holds the loop, maybe in a step that has been without it."""
        luggage = lwp.luggage
        self._loop._thread_id = luggage.identity
        if luggage.wardrobe.worn is not self.values and lwp.handle is None:
            self.dress(lwp)
        if self._marks.leaver is not None and lwp.region is not Region.AWAY:
            self._marks.taken(lwp)
        if self.rlocks.held:
            self.rlocks.follow(lwp.ident)
            luggage.check_bindings = lwp.slow_exit = True
        self.look()
        if with_step:
            self.returned(lwp)
        if lwp.ident == os_ident():  # else a move was not made after all
            refused = None if luggage.attributes is self._attributes.values else self._attributes.taken(lwp)
            if refused is not None and _refusals.is_news(refused.errno):  # said in a step: the mutex is held
                said = "an LWP cannot have the loop's affinity and priority: %s"
                self._loop.call_soon(say, ERROR, said, refused.strerror)
            self.tracers.taken(lwp)

    def returned(self, lwp: LWP) -> None:
        """The LWP's step has the loop again, or has ended without it."""
        luggage = lwp.luggage
        if self.conversations.away:
            self.conversations.returned(lwp)
        if luggage.task is not None:
            _current_tasks[self._loop] = luggage.task
            luggage.task = None
        if thread_locals.IN_DICTIONARY:
            luggage.wardrobe.join()
            luggage.wardrobe.returned(self.values)
        if self._marks.leaver is not None:  # a blocking() region has just joined the loop's thread-locals again
            self._marks.taken(lwp)
        if self._marks.kept:
            self._marks.returned(lwp)
        # If it drains, the thread that was its home may run another loop.
        if thread_locals.IN_DICTIONARY and self._carrying.home is None:
            luggage.wardrobe.part()
            events._set_running_loop(self._loop)

    def resumed(self) -> None:
        """The holder's own poll has ended."""
        self.look()

    def retires(self, lwp: LWP) -> None:
        """The LWP is about to end."""
        self.rlocks.retires(lwp.ident)
        lwp.luggage.children = children.living()

    def begin(self, lwp: LWP) -> None:
        """Prepare the calling thread to run the loop's code."""
        loop = self._loop
        self._watch()
        self._connections.made_by(lwp.ident)
        self.tracers.started(lwp)
        events._set_running_loop(loop)
        sys.set_asyncgen_hooks(firstiter=loop._asyncgen_firstiter_hook, finalizer=loop._asyncgen_finalizer_hook)

    # ---------------------------------------------------------------- what the loop asks

    def settle(self, home: LWP) -> None:
        """The calling thread is the home, and its thread-locals are the loop's."""
        values = thread_locals.of_this_thread()
        if values is None or self.values is None or not values.are(self.values):
            self.values = values
        self._loop._thread_id = home.luggage.identity = get_ident()

    def dress(self, lwp: LWP) -> None:
        """Give an LWP that is between two steps the home's thread-locals, and its identity, unless it has them."""
        if lwp is not self._carrying.home and lwp.luggage.wardrobe.worn is not self.values:
            lwp.luggage.wardrobe.wear(self.values)
            self._loop._thread_id = lwp.luggage.identity = get_ident()

    def forget_task(self) -> None:
        """A step that could not take back that its task is the current one is over."""
        _current_tasks.pop(self._loop, None)


def track(lwp: LWP, enabled: bool) -> None:
    """Keep or do not keep where coroutines come from: a property of the thread, for debug mode."""
    if enabled and lwp.luggage.tracking is None:
        lwp.luggage.tracking = sys.get_coroutine_origin_tracking_depth()
        sys.set_coroutine_origin_tracking_depth(constants.DEBUG_STACK_DEPTH)
    elif not enabled and lwp.luggage.tracking is not None:
        sys.set_coroutine_origin_tracking_depth(lwp.luggage.tracking)
        lwp.luggage.tracking = None
