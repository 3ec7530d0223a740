"""Fields of the protocol's objects that compiled code looks at: how they are laid out is the core's."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

from . import compiled

if TYPE_CHECKING or compiled is None:

    class LwpFields:
        """Slots of an LWP (``protocol/lwp.py``)."""

        __slots__ = ("bound_steps", "handle", "ident", "interrupt", "slow_exit", "state")

        bound_steps: list[Any]
        handle: Any
        ident: int
        interrupt: BaseException | None
        slow_exit: bool
        state: Any

    class RecordFields:
        """Fields of a record (``protocol/record.py``)."""

        batch: Any
        batch_unfinished: bool
        deferred: list[Any]
        detached: set[Any]
        due: float | None
        holder: Any
        holder_ident: int | None
        lwps: set[Any]
        mailed: bool
        preempted: collections.deque[Any]
        stale: bool
        stopping: bool
        summoned: float | None
        unheld: Any
        unseen: bool

else:
    LwpFields, RecordFields = compiled.LwpFields, compiled.RecordFields
