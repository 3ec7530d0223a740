"""Following: what belongs to the loop, and goes with it from thread to thread.

The protocol tells what becomes of the loop (``face.py``), and each of the parts does its own about it; this file has
their order, and what is too small for a file: the current task, the running loop, the hooks of async generators.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from asyncio import constants, events
from logging import ERROR
from typing import TYPE_CHECKING, Any

from .. import detector
from ..identity import get_ident
from ..log import Trouble, say
from ..lwp import LWP, Region
from . import children, rlocks, thread_locals
from .marks import Marks
from .tracers import Tracers
from .transports import Conversations

if TYPE_CHECKING:
    from ..base import Engine
    from ..carrying import Carrying
    from ..reactions import Reactions

# Before 3.14 the current task is a property of the loop, so a step that leaves takes it along; since 3.14 it is one of
# the thread, and stays with it, but for asyncio's tasks in Python.
_current_tasks: dict[Any, Any] = asyncio.tasks._current_tasks  # type: ignore[attr-defined]

_refusals = Trouble("other LWPs could not have their loop's affinity and priority, either (%d)")


class Following:
    """What follows one loop.

    Args:
        loop: the loop.
        carrying: who carries it.
        reactions: what it does about blocks; they see the calls that change something here.

    Attributes:
        conversations: whose steps wait for one that blocks.
        rlocks: the RLocks that are the loop's.
        tracers: its tracer and its profiler.
        values: the home's thread-locals; None where they cannot be shared.
    """

    def __init__(self, loop: Engine, carrying: Carrying, reactions: Reactions) -> None:
        self._loop = loop
        self._carrying = carrying
        self._attributes = reactions.attributes
        self._connections = reactions.connections
        weak: Any = weakref.proxy(self)
        self.tracers = Tracers(lambda text: weak._loop.call_soon(say, ERROR, text))
        self.conversations = Conversations()
        self._marks = Marks()
        self.rlocks = reactions.affinity.rlocks
        self.values: thread_locals.Values | None = None

    def loosen(self, loop: Engine) -> None:
        """The loop is closed: refer to it by this from now on."""
        self._loop = loop

    # ---------------------------------------------------------------- what the protocol asks (face.Face)

    def taken(self, lwp: LWP) -> None:
        """The LWP holds the loop."""
        self._loop._thread_id = lwp.identity
        if lwp.wardrobe.worn is not self.values and lwp.handle is None:
            self.dress(lwp)
        if self._marks.leaver is not None and lwp.region is not Region.AWAY:
            self._marks.taken(lwp)
        if self.rlocks.held:
            self.rlocks.follow(lwp.ident)
            lwp.affine = lwp.alert = True
        detector.sampler.look()

    def gives(self, lwp: LWP) -> None:
        """The LWP is about to give the loop up."""
        self.tracers.given(lwp)

    def follow(self, lwp: LWP) -> None:
        """The LWP has the loop from another one, or may have."""
        refused = self._attributes.taken(lwp)
        if refused is not None and _refusals.is_news(refused.errno):  # said in a step: the mutex is held
            said = "an LWP cannot have the loop's affinity and priority: %s"
            self._loop.call_soon(say, ERROR, said, refused.strerror)
        self.tracers.taken(lwp)

    def left(self, lwp: LWP) -> None:
        """The LWP's step is without the loop."""
        self.conversations.left(lwp)
        if self.values is not None:
            self._marks.left(lwp)
        lwp.task = _current_tasks.pop(self._loop, None)
        if thread_locals.IN_DICTIONARY:
            lwp.wardrobe.left(self.values)
        if self.rlocks.held:
            self.rlocks.follow(rlocks.NOBODY)

    def returned(self, lwp: LWP) -> None:
        """The LWP's step has the loop again."""
        self.conversations.returned(lwp)
        if lwp.task is not None:
            _current_tasks[self._loop] = lwp.task
            lwp.task = None
        if thread_locals.IN_DICTIONARY:
            lwp.wardrobe.join()
            lwp.wardrobe.returned(self.values)
        if self._marks.leaver is not None:  # a blocking() region has just joined the loop's thread-locals again
            self._marks.taken(lwp)
        self._marks.returned(lwp)
        # If it drains, the thread that was its home may run another loop.
        if thread_locals.IN_DICTIONARY and self._carrying.home is None:
            lwp.wardrobe.part()
            events._set_running_loop(self._loop)

    def retires(self, lwp: LWP) -> None:
        """The LWP is about to end."""
        self.rlocks.retires(lwp.ident)
        lwp.children = children.living()

    def started(self, lwp: LWP) -> None:
        """Make the calling thread ready to run the loop's code."""
        loop = self._loop
        detector.sampler.watch(self._carrying, again=True)
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
        self._loop._thread_id = home.identity = get_ident()

    def dress(self, lwp: LWP) -> None:
        """Give an LWP that is between two steps the home's thread-locals, and its identity, unless it has them."""
        if lwp is not self._carrying.home and lwp.wardrobe.worn is not self.values:
            lwp.wardrobe.wear(self.values)
            self._loop._thread_id = lwp.identity = get_ident()

    def forget_task(self) -> None:
        """A step that could not take back that its task is the current one is over."""
        _current_tasks.pop(self._loop, None)


def track(lwp: LWP, enabled: bool) -> None:
    """Keep or do not keep where coroutines come from: a property of the thread, for debug mode."""
    if enabled and lwp.tracking is None:
        lwp.tracking = sys.get_coroutine_origin_tracking_depth()
        sys.set_coroutine_origin_tracking_depth(constants.DEBUG_STACK_DEPTH)
    elif not enabled and lwp.tracking is not None:
        sys.set_coroutine_origin_tracking_depth(lwp.tracking)
        lwp.tracking = None
