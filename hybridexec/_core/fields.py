"""Fields of the protocol's objects that compiled code looks at: how they are laid out is the core's."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

from . import compiled

if TYPE_CHECKING or compiled is None:

    class LwpFields:
        """Slots of an LWP (``protocol/lwp.py``)."""

        __slots__ = (
            "bound_steps",
            "callbacks",
            "carrying",
            "deadline",
            "handle",
            "ident",
            "interrupt",
            "lost_loop",
            "region",
            "since",
            "slow_exit",
            "state",
            "watch",
        )

        bound_steps: list[Any]
        callbacks: int
        carrying: Any
        deadline: float
        handle: Any
        ident: int
        interrupt: BaseException | None
        lost_loop: bool
        region: Any
        since: float
        slow_exit: bool
        state: Any
        watch: Any

    class RecordFields:
        """Fields of a record (``protocol/record.py``)."""

        away_since: float
        batch: Any
        batch_unfinished: bool
        claims: int
        deferred: list[Any]
        detached: set[Any]
        due: float | None
        exhausted: bool
        handoffs: int
        holder: Any
        holder_ident: int | None
        home: Any
        last: Any
        lwps: set[Any]
        mailed: bool
        mutex: Any
        parked: list[Any]
        pollers: list[Any]
        preempted: collections.deque[Any]
        ready: collections.deque[Any]
        returning: collections.deque[Any]
        stale: bool
        state: Any
        stopping: bool
        summoned: float | None
        timers: list[Any]
        unheld: Any
        unseen: bool
        waking: Any
        wakeups: int

else:
    LwpFields, RecordFields = compiled.LwpFields, compiled.RecordFields
