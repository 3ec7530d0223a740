"""Luggage: what is kept with each LWP of what follows its loop."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from .._core.fields import LuggageFields
from ..platform import children
from .thread_locals import Wardrobe

if TYPE_CHECKING:
    from .attributes import Values


class Luggage(LuggageFields):
    """What one LWP has of its loop's.

    Attributes:
        identity: what ``threading.get_ident()`` says there: the home's, once it carries the loop.
        task: the loop's current task while its step is without the loop (3.12, 3.13).
        owned: RLocks that its current step has acquired, maybe.
        suspended: the tasks whose code its step has suspended in a ``with``.
        check_bindings: the end of its step has to be looked at, for what is bound.
        pin_count: how many ``pinned()`` regions its step, a callback that is no task's, has entered.
        pin_step: which step that is.
        tracking: in debug mode: what its thread's coroutine origin tracking was before.
        tracers: its thread's tracer and profiler, when last it gave up the loop.
        hooks: the hooks for new threads that there were when it got them.
        attributes: what its thread has got, since a step has asked for it.
        children: processes that its thread has started, and must not end before.
        wardrobe: whose thread-locals it sees.
    """

    attributes: Values | None
    task: asyncio.Task[Any] | None
    wardrobe: Wardrobe

    __slots__ = (
        "children",
        "hooks",
        "owned",
        "pin_step",
        "suspended",
        "tracking",
    )

    def __init__(self) -> None:
        self.identity = 0
        self.task = None
        self.owned: list[Any] = []
        self.suspended: list[asyncio.Task[Any] | None] = []
        self.check_bindings = False
        self.pin_count = 0
        self.pin_step: asyncio.Handle | None = None
        self.tracking: int | None = None
        self.tracers = None, None
        self.hooks: tuple[Any, Any] = None, None
        self.attributes = None
        self.children: list[int] = []
        self.wardrobe = Wardrobe()

    def settle(self, ident: int) -> None:
        """The calling thread is the LWP's."""
        self.identity = ident

    def put_down(self) -> None:
        """The calling thread ends: what it has of the loop's is the loop's alone."""
        self.wardrobe.take_off()

    def outlives(self) -> bool:
        """Whether the thread must not end with its LWP."""
        return bool(self.children)

    def thread_ends(self, thread: threading.Thread | None) -> None:
        """The LWP has ended: wait for the processes that its thread has started."""
        if self.children and thread is not None:
            thread.name = thread.name.replace("-lwp-", "-parent-")
            children.await_end(self.children)
