"""Handles of the engines, which are asyncio's: some with something more, some made in less time."""

from __future__ import annotations

from asyncio import events
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any


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


class FdHandle(events.Handle):
    """A callback of ``add_reader`` or ``add_writer``."""

    if TYPE_CHECKING:
        _loop: Any

    __slots__ = ("fd", "polled", "taken_out", "watch")

    def __init__(self, fd: Any, watch: Callable[..., None], callback: Callable[..., object], args: Any, loop: Any):
        super().__init__(callback, args, loop, None)
        self.fd = fd
        self.watch = watch  # what has libuv watch the file descriptor
        self.polled = 0  # the number of the poll that has found it ready, while it is queued
        self.taken_out = False  # libuv does not watch it: it is queued

    def _run(self) -> None:
        self.polled = 0
        if self.taken_out:
            self._loop._put_back.append(self)
        super()._run()


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
