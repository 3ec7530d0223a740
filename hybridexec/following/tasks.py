"""Tasks: whose step an LWP runs, and ``asyncio.all_tasks``.

Since Python 3.14 each thread keeps a list of the tasks that were made on it, and ``all_tasks()`` looks at the calling
thread's list alone if that thread runs the loop that is asked for.  It looks at all threads' lists if it does not.  A
loop that moves makes tasks on many threads: so its steps have to ask as if they were somebody else.

That cannot be had by overriding a method, so the function is replaced in ``asyncio`` when this package is imported; for
other loops it does what it did.
"""

from __future__ import annotations

import _asyncio
import asyncio
import functools
import sys
from asyncio import events
from typing import Any

from ..platform.patches import Patch
from ..protocol.lwp import LWP

TASKS = tuple({getattr(_asyncio, "Task", asyncio.tasks._PyTask), asyncio.tasks._PyTask})  # type: ignore[attr-defined]
"""asyncio's two classes of tasks.  Which one ``asyncio.Task`` names may change while tasks of both live: nest_asyncio
sees to that."""

TASK_OF_THREAD = sys.version_info >= (3, 14)
"""Whether asyncio's current task is a property of the thread, which stays with it when the loop leaves; before, it was
one of the loop."""

_all_tasks = asyncio.all_tasks
_moving: type | None = None


def task_of(lwp: LWP) -> asyncio.Task[Any] | None:
    """The user thread whose step an LWP runs, as far as its callback tells."""
    handle = lwp.handle
    owner = getattr(getattr(handle, "_callback", None), "__self__", None)
    # The first step of an executor's user thread is not its task's: there it becomes one, or never does.
    task = getattr(owner, "user_task", owner)
    return task if isinstance(task, TASKS) else None


@functools.wraps(_all_tasks)
def all_tasks(loop: asyncio.AbstractEventLoop | None = None) -> set[asyncio.Task[Any]]:
    """As ``asyncio.all_tasks``."""
    running = events._get_running_loop()
    if running is None or not isinstance(running, _moving or ()) or loop not in (None, running):
        return _all_tasks(loop)
    events._set_running_loop(None)
    try:
        return _all_tasks(running)
    finally:
        events._set_running_loop(running)


def replace(moving: type) -> None:
    """Replace ``asyncio.all_tasks`` where it has to be.

    Args:
        moving: the class of the loops that move.
    """
    global _moving
    _moving = moving
    if sys.version_info >= (3, 14):
        for owner in (asyncio, asyncio.tasks):
            Patch(owner, "all_tasks", all_tasks)
