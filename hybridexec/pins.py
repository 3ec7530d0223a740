"""Pins: which user threads of a loop are inside of ``with pinned():``, where the loop stays with a step that blocks."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

from .lwp import LWP
from .tasks import task_of


class Pins:
    """Those of one loop.  Its steps change them."""

    def __init__(self) -> None:
        self._tasks: weakref.WeakKeyDictionary[asyncio.Task[Any], int] = weakref.WeakKeyDictionary()

    def pin(self, lwp: LWP, task: asyncio.Task[Any] | None) -> None:
        """``with pinned():`` begins."""
        if task is not None:
            self._tasks[task] = self._tasks.get(task, 0) + 1
            return
        if lwp.pin_step is not lwp.handle:
            lwp.pin_step, lwp.pin_count = lwp.handle, 0
        lwp.pin_count += 1

    def unpin(self, lwp: LWP | None, task: asyncio.Task[Any] | None) -> None:
        """``with pinned():`` ends, maybe in a later step."""
        if task is not None:
            count = self._tasks.get(task, 0) - 1
            if count > 0:
                self._tasks[task] = count
            else:
                self._tasks.pop(task, None)
        elif lwp is not None and lwp.pin_step is lwp.handle and lwp.pin_count:
            lwp.pin_count -= 1

    def hold(self, lwp: LWP) -> bool:
        """Whether the LWP's step is pinned.  Any thread may ask."""
        if lwp.pin_count and lwp.pin_step is lwp.handle:
            return True
        if not self._tasks:
            return False
        # Not only the task that the step is of: an eager one begins in its parent's step, and pins it until it waits.
        # A pinned task that runs does so on the holder, which is who is asked about.
        pinned = (reference() for reference in self._tasks.keyrefs())
        return any(task is not None and (task is task_of(lwp) or _runs(task)) for task in pinned)


def _runs(task: asyncio.Task[Any]) -> bool:
    """Whether a task's coroutine runs now, as far as it tells."""
    return bool(getattr(task.get_coro(), "cr_running", False))
