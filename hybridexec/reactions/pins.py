"""Pins: which user threads of a loop are inside of ``with pinned():``, where the loop stays with a step that blocks."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

from ..following.tasks import task_of
from ..protocol.lwp import LWP


class Pins:
    """Those of one loop.  Its steps change them.

    Attributes:
        tasks: those that are pinned, and how often.
        used: whether there ever were any.
    """

    def __init__(self) -> None:
        self.tasks: weakref.WeakKeyDictionary[asyncio.Task[Any], int] = weakref.WeakKeyDictionary()
        self.used = False

    def pin(self, lwp: LWP, task: asyncio.Task[Any] | None) -> None:
        """``with pinned():`` begins."""
        self.used = True
        lwp.carrying.leaves_plainly = False
        if task is not None:
            self.tasks[task] = self.tasks.get(task, 0) + 1
            return
        if lwp.luggage.pin_step is not lwp.handle:
            lwp.luggage.pin_step, lwp.luggage.pin_count = lwp.handle, 0
        lwp.luggage.pin_count += 1

    def unpin(self, lwp: LWP | None, task: asyncio.Task[Any] | None) -> None:
        """``with pinned():`` ends, maybe in a later step."""
        if task is not None:
            count = self.tasks.get(task, 0) - 1
            if count > 0:
                self.tasks[task] = count
            else:
                self.tasks.pop(task, None)
        elif lwp is not None and lwp.luggage.pin_step is lwp.handle and lwp.luggage.pin_count:
            lwp.luggage.pin_count -= 1

    def hold(self, lwp: LWP) -> bool:
        """Whether the LWP's step is pinned.  Any thread may ask."""
        if lwp.luggage.pin_count and lwp.luggage.pin_step is lwp.handle:
            return True
        if not self.tasks:
            return False
        # Not only the task that the step is of: an eager one begins in its parent's step, and pins it until it waits.
        # A pinned task that runs does so on the holder, which is who is asked about.
        # One that waits in block_on seems to run, too.
        waiting = [task_of(other) for other in list(lwp.carrying.awaiting) if other is not lwp]
        pinned = (reference() for reference in self.tasks.keyrefs())
        return any(
            task is not None and (task is task_of(lwp) or (_runs(task) and task not in waiting)) for task in pinned
        )


def _runs(task: asyncio.Task[Any]) -> bool:
    """Whether a task's coroutine runs now, as far as it tells."""
    return bool(getattr(task.get_coro(), "cr_running", False))
