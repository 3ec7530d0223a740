"""What a user thread does, as a program sees it."""

from __future__ import annotations

import enum


class UserThreadState(enum.Enum):
    """What a user thread does.  The words are those of thread libraries and of ``ps``."""

    READY = "ready"
    """It waits for its turn on its loop: it has not started yet, or what it has awaited is there, or its blocking call
    is over."""
    RUNNING = "running"
    """An LWP runs its step."""
    BLOCKED = "blocked"
    """Its step stands in a blocking call, and its loop has left it there."""
    WAITING = "waiting"
    """It awaits something; no LWP is occupied."""
    DONE = "done"
    """It has ended."""
