"""Handles of the engines, which are asyncio's: some with something more, some made in less time."""

from __future__ import annotations

import enum
import selectors
from asyncio import events
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from .._core import compiled


class Step(events.Handle):
    """What ``call_soon`` makes, outside of debug mode."""

    if TYPE_CHECKING:
        _args: Any
        _callback: Any
        _loop: Any

    __slots__ = ()

    def __init__(self, callback: Any, args: Any, loop: Any, context: Context | None) -> None:
        # Not by super(): that asks the loop for its debug mode, which is off.
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = self._source_traceback = None


Step.__name__ = "Handle"  # messages show asyncio's names

ThreadSafeStep: Any = getattr(events, "_ThreadSafeHandle", Step)
"""Since 3.14 asyncio gives one to other threads: who cancels it waits for a callback that has begun."""


class FdState(enum.Enum):
    """Where a callback of ``add_reader`` or ``add_writer`` is.

    Changed by who holds the loop, and under the mutex for a step that leaves it.
    """

    IDLE = "idle"  # its descriptor is watched; or it runs, with the loop, so that nobody looks
    BUSY = "busy"  # it is queued, or runs without the loop: it is not to be called again
    TAKEN_OUT = "taken out"  # busy, and a poll has found its descriptor ready: that is not watched, or polls would spin


if TYPE_CHECKING or compiled is None:

    class FdFields(events.Handle):
        """What the compiled core looks at in an ``FdHandle``."""

        __slots__ = ("state",)

        state: FdState

else:
    FdFields, Step = compiled.FdFields, compiled.Handle


class FdHandle(FdFields):
    """A callback of ``add_reader`` or ``add_writer``: one registration.

    It is in flight by itself, not its descriptor: that may have been given to another callback, or closed and its
    number reused, before this one is back.  Only the one that is in its table still may be watched again.

    Args:
        table: the engine's readers or writers, by number.
        fd: the file descriptor, or the object that has it.
        number: the file descriptor.
        callback: what to call.
        args: with what.
        loop: the loop.
        context: what to call it in; a copy of the caller's if it is None.
    """

    if TYPE_CHECKING:
        _loop: Any

    __slots__ = ("fd", "number", "owner", "polled", "table")

    def __init__(
        self,
        table: dict[int, FdHandle],
        fd: Any,
        number: int,
        callback: Callable[..., object],
        args: Any,
        loop: Any,
        context: Context | None = None,
    ) -> None:
        super().__init__(callback, args, loop, context)
        self.table = table
        self.fd = fd
        self.number = number
        self.owner = getattr(callback, "__self__", None)  # known also after cancel()
        self.state = FdState.IDLE
        self.polled = 0  # the number of the poll that has found it ready, for an engine that may find it twice in one

    def leaves(self) -> None:
        """Its callback continues without the loop."""
        if self.state is FdState.IDLE:
            self.state = FdState.BUSY

    def is_registered(self) -> bool:
        """Whether it has been neither removed nor replaced."""
        return self.table.get(self.number) is self

    def _run(self) -> None:
        # In debug mode; else the loop does this itself.
        if self.state is FdState.TAKEN_OUT:
            self._loop._put_back(self)
        self.state = FdState.IDLE
        super()._run()


FdHandle.__name__ = "Handle"


class Timer(events.TimerHandle):
    """A timer that is made and cancelled in less time; servers do little else with theirs."""

    if TYPE_CHECKING:
        _args: Any
        _callback: Any
        _loop: Any

    __slots__ = ()

    def __init__(self, when: float, callback: Any, args: Any, loop: Any, context: Context | None) -> None:
        # Not by super(): that asks the loop for its debug mode, which is off.
        self._when = when
        self._scheduled = True
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = self._source_traceback = None

    def __lt__(self, other: Any) -> bool:
        return self._when < other._when  # type: ignore[no-any-return]

    def cancel(self) -> None:
        """As ``TimerHandle.cancel``."""
        if not self._cancelled:
            self._cancelled = True
            if self._scheduled:
                self._loop._timer_cancelled_count += 1
            self._callback = self._args = None


Timer.__name__ = "TimerHandle"


def made_by_caller[H: events.Handle](handle: H) -> H:
    """A handle that asyncio has made for a method of ours: where debug mode says that it was made, that is left out."""
    if handle._source_traceback:  # type: ignore[attr-defined]
        del handle._source_traceback[-1]  # type: ignore[attr-defined]
    return handle


def number_of(fd: Any) -> int:
    """The number of a file descriptor, or of an object that has one.

    Raises:
        ValueError: it has none, or is closed.
    """
    return selectors._fileobj_to_fd(fd)  # type: ignore[attr-defined, no-any-return]
