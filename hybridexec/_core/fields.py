"""Fields of the protocol's objects that compiled code looks at: how they are laid out is the core's."""

from __future__ import annotations

import collections
from collections.abc import Callable
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
            "luggage",
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
        luggage: Any
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
        host: Any
        last: Any
        leaves_plainly: bool
        lwps: set[Any]
        mailed: bool
        mutex: Any
        parked: list[Any]
        pollers: list[Any]
        pool: Any
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

    class WatchFields:
        """Slots of a watch (``detector/watch.py``)."""

        __slots__ = ("call", "reactions", "trap")

        call: Any
        reactions: Any
        trap: Any

    class CallFields:
        """Fields of a call (``detector/calls.py``)."""

        argument: Any
        began: float
        code: Any
        detection: Any
        is_plain: bool = False
        name: str | None
        outer: Any
        reported: bool = False
        site: Any

    class LuggageFields:
        """Slots of an LWP's luggage (``following/luggage.py``)."""

        __slots__ = ("attributes", "check_bindings", "identity", "pin_count", "task", "tracers", "wardrobe")

        attributes: Any
        check_bindings: bool
        identity: int
        pin_count: int
        task: Any
        tracers: tuple[Any, Any]
        wardrobe: Any

    class FollowingFields:
        """Fields of what follows a loop (``following/following.py``)."""

        _attributes: Any
        _away: dict[Any, Any]
        _held: dict[Any, Any]
        _loop: Any
        _marks: Any
        look: Callable[[], None]
        tracers: Any
        values: Any

    class MarksFields:
        """Fields of a loop's marks (``following/marks.py``)."""

        kept: dict[Any, Any]
        leaver: Any

    class TracersFields:
        """Fields of a loop's tracers (``following/tracers.py``)."""

        _profiler: Any
        _tracer: Any
        _untold: list[str]
        active: bool

else:
    LwpFields, RecordFields = compiled.LwpFields, compiled.RecordFields
    WatchFields, CallFields = compiled.WatchFields, compiled.CallFields
    LuggageFields, FollowingFields = compiled.LuggageFields, compiled.FollowingFields
    MarksFields, TracersFields = compiled.MarksFields, compiled.TracersFields
