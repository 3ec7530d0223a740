"""The uvloop engine: libuv polls and carries the transports; steps, timers and the ready queue are ours.

``uv_run`` cannot be entered twice, so a step that ran on top of it could not be left for another LWP.  Hence no step
does.  The engine uses uvloop's public API alone, in this way:

* *The queue is ours.*  ``call_soon`` and its kin put asyncio's own handles into a deque of ours, and timers into a heap
  of ours; asyncio's tasks and futures call these methods, so their steps land there, too.  What uvloop schedules for
  itself stays in its own queue, and is run inside of the next poll.
* *The poll* is uvloop's run of its own loop (``uv_poll.py``).  An LWP in the poll keeps the loop (``_claimable``): when
  its wait has ended, ``uv_run`` goes on before it has the GIL.
* *Readers and writers* of the program, and what it opens, are in ``uv_readers.py``.

*Signals.*  Handlers are registered as asyncio does, with the self-pipe as the wake-up fd.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import gc
import heapq
import signal
import socket
import warnings
import weakref
from asyncio import unix_events
from asyncio.base_events import BaseEventLoop
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import TYPE_CHECKING, Any

from uvloop.loop import Loop

from ..platform.clock import monotonic, own_time
from ..platform.own import DIRECTORY
from ..platform.threads import os_ident
from .base import Engine
from .handles import FdHandle, Step, ThreadSafeStep, Timer, made_by_caller
from .uv_lacking import Lacking
from .uv_poll import UNKNOWN, UvPoll
from .uv_readers import OPENING, SERVING, Watching, opening, serving

_UnixLoop: Any = unix_events._UnixSelectorEventLoop
_Base: Any = BaseEventLoop
_SelectorBase: Any = BaseSelectorEventLoop

_child_watchers: Any = getattr(unix_events, "AbstractChildWatcher", ())  # there are none since 3.14

_NO_WATCHER = (
    "asyncio's child watcher is not attached: on the engine 'uvloop' libuv hears of the ends of children by itself"
)

_abandoned: list[UvEngine] = []  # of a forked child: uvloop's complaint that they are not closed would be no help


class UvEngine(Lacking, Loop, Engine):  # type: ignore[misc]
    """``uvloop.Loop`` as an engine."""

    engine_name = "uvloop"
    _claimable = False
    _closed = False  # in the place of uvloop's own, which cannot be set

    if TYPE_CHECKING:
        _poll: UvPoll

    def __init__(self) -> None:
        self._ready: collections.deque[Any] = collections.deque()
        self._scheduled: list[Any] = []
        self._timer_cancelled_count = 0
        self._clock_resolution = own_time.get_clock_info("monotonic").resolution
        self._stopping = self._debug = False
        self._thread_id: int | None = None
        self._current_handle: asyncio.Handle | None = None
        self._exception_handler: Any = None
        self._task_factory: Any = None
        self._default_executor: Any = None
        self._executor_shutdown_called = False
        self._signal_handlers: dict[int, asyncio.Handle] = {}
        self._watching = Watching(self, self._ready)
        self._readers, self._writers = self._watching.readers, self._watching.writers
        self._poll = UvPoll(self, super().run_forever, super().stop, super().call_soon, super().call_later)
        super().__init__()
        self._poll.knows(_own_queue(self, super().call_soon))
        self._ssock, self._csock = socket.socketpair()
        self._ssock.setblocking(False)
        self._csock.setblocking(False)
        super().add_reader(self._ssock, self._poked)

    def __del__(self, finalize: Any = BaseEventLoop.__del__, suppress: Any = contextlib.suppress) -> None:
        if not vars(self):
            return  # libuv's own making has failed
        if "_csock" not in vars(self):
            with suppress(TypeError):  # its making has failed, maybe before uvloop's own had come far enough
                super().close()
        else:
            finalize(self)  # (at the end of the interpreter the names of this module are gone)

    # ---------------------------------------------------------------- the end of a poll

    def _write_to_self(self) -> None:
        """End the poll.  Any thread, and signal handlers."""
        if self._poll.ident == os_ident():
            self._poll.end()
        else:
            _SelectorBase._write_to_self(self)

    def _poked(self) -> None:
        """There is something in the self-pipe."""
        self._read_from_self()
        self._poll.end()

    def _run_ends(self) -> None:
        """The home, which holds the loop, is about to return from ``run_forever``."""
        self._poll.run_ends()

    def _unmake(self) -> None:
        """Its making has failed half way, anywhere: its finalizer closes what there is of uvloop's."""
        if "_poll" in vars(self):
            self._poll.give_reserve()
        if "_csock" in vars(self):
            super().remove_reader(self._ssock)
            self._ssock.close()
            self._csock.close()
            del self._ssock, self._csock

    # ---------------------------------------------------------------- asyncio's parts, which uvloop has in its own way

    time = staticmethod(monotonic)  # as uvloop's, which no tool can make stand still
    _call_soon = _Base._call_soon
    _add_callback = _Base._add_callback
    _timer_handle_cancelled = _Base._timer_handle_cancelled
    _check_callback = _Base._check_callback
    _check_thread = _Base._check_thread
    _check_closed = _Base._check_closed
    _check_running = _Base._check_running
    get_debug = _Base.get_debug
    is_running = _Base.is_running
    is_closed = _Base.is_closed
    run_until_complete = _Base.run_until_complete
    get_task_factory = _Base.get_task_factory
    set_default_executor = _Base.set_default_executor
    shutdown_default_executor = _Base.shutdown_default_executor
    _check_default_executor = _Base._check_default_executor
    _do_shutdown = _Base._do_shutdown
    get_exception_handler = _Base.get_exception_handler
    set_exception_handler = _Base.set_exception_handler
    default_exception_handler = _Base.default_exception_handler
    _read_from_self = _SelectorBase._read_from_self
    _process_self_data = _UnixLoop._process_self_data
    _handle_signal = _UnixLoop._handle_signal
    _check_signal = _UnixLoop._check_signal
    _add_callback_signalsafe = _Base._add_callback_signalsafe
    remove_signal_handler = _UnixLoop.remove_signal_handler

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        """As asyncio's."""
        handle: asyncio.Handle
        if self._debug or self._closed:
            handle = made_by_caller(_Base.call_soon(self, callback, *args, context=context))
        else:
            handle = Step(callback, args, self, context)
            self._ready.append(handle)
        if self._poll.ident and not self._poll.ending:  # else the holder looks at the queue once more before it polls
            self._write_to_self()
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """As asyncio's."""
        handle: asyncio.Handle
        if self._debug or self._closed:
            handle = made_by_caller(_Base.call_soon_threadsafe(self, callback, *args, context=context))
            return handle
        handle = ThreadSafeStep(callback, args, self, context)
        self._ready.append(handle)
        if self._poll.ident and not self._poll.ending:
            self._write_to_self()
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's."""
        if self._debug or self._closed or delay is None:
            timer: asyncio.TimerHandle = _Base.call_later(self, delay, callback, *args, context=context)
            return made_by_caller(timer)
        handle = Timer(monotonic() + delay, callback, args, self, context)
        heapq.heappush(self._scheduled, handle)
        if self._poll.ident and not self._poll.ending:  # it may have to be bounded anew
            self._write_to_self()
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's."""
        timer: asyncio.TimerHandle
        if self._debug or self._closed or when is None:
            timer = made_by_caller(_Base.call_at(self, when, callback, *args, context=context))
        else:
            timer = Timer(when, callback, args, self, context)
            heapq.heappush(self._scheduled, timer)
        if self._poll.ident and not self._poll.ending:
            self._write_to_self()
        return timer

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """As asyncio's.  If it raises in the poll that is kept until the poll is over: uvloop would end the process."""
        try:
            _Base.call_exception_handler(self, context)
        except BaseException as exc:
            if self._poll.ident != os_ident():
                raise
            self._poll.raised = exc
            self._poll.end()

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """As asyncio's; the default executor's threads are called as uvloop calls them."""
        if executor is None and self._default_executor is None and not self._executor_shutdown_called:
            self._default_executor = ThreadPoolExecutor(thread_name_prefix="uvloop")
        return _Base.run_in_executor(self, executor, func, *args)

    def set_task_factory(self, factory: Any) -> None:
        """As asyncio's; uvloop's own way to make tasks, the fast one, is not for every factory."""
        _Base.set_task_factory(self, factory)
        vars(self).pop("create_task", None)
        if factory is not None:
            self.create_task = functools.partial(_Base.create_task, self)  # type: ignore[method-assign]

    def stop(self) -> None:
        """As asyncio's: after the next turn."""
        self._stopping = True

    def close(self) -> None:
        """Close the loop, and all that uvloop has open."""
        if self._closed:
            return
        self._closed = True
        self._ready.clear()
        self._scheduled.clear()
        self._executor_shutdown_called = True
        executor, self._default_executor = self._default_executor, None
        if executor is not None:
            executor.shutdown(wait=False)
        if self in _abandoned:
            return
        # A warning that is an error would keep uvloop from closing what it warns of: it would wait for that for ever.
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ResourceWarning)
            super().close()
        # Nothing of the loop's own refers to it any more.
        self._watching.loosen(weakref.proxy(self))
        vars(self).pop("create_task", None)
        self._poll.close()
        self._ssock.close()
        self._csock.close()
        for sig in list(self._signal_handlers):
            self.remove_signal_handler(sig)
        for warning in caught:
            try:
                warnings.warn(warning.message, source=warning.source, skip_file_prefixes=(DIRECTORY,))
            except Warning as exc:
                self.call_exception_handler({"message": "A warning at the close of a loop", "exception": exc})

    def _abandon(self) -> None:
        """libuv's epoll is shared with the parent, and closing the loop would take the parent's descriptors out of it:
        so it is never closed."""
        _abandoned.append(self)
        self._watching.abandon()
        if self._poll.ident:
            self._poll.end()

    # ---------------------------------------------------------------- readers and writers

    def add_reader(self, fd: Any, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """As asyncio's."""
        self._check_closed()
        self._watching.watch(self._readers, fd, callback, args)

    def add_writer(self, fd: Any, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """As asyncio's."""
        self._check_closed()
        self._watching.watch(self._writers, fd, callback, args)

    def _add_reader(self, fd: int, callback: Callable[..., object], *args: Any) -> FdHandle:
        return self._watching.watch(self._readers, fd, callback, args)

    def _add_writer(self, fd: int, callback: Callable[..., object], *args: Any) -> FdHandle:
        return self._watching.watch(self._writers, fd, callback, args)

    def remove_reader(self, fd: Any) -> bool:  # type: ignore[override]
        """As asyncio's."""
        return self._watching.unwatch(self._readers, fd)

    def remove_writer(self, fd: Any) -> bool:  # type: ignore[override]
        """As asyncio's."""
        return self._watching.unwatch(self._writers, fd)

    def _put_back(self, handle: FdHandle) -> None:
        """As the selector engine's."""
        self._watching.put_back(handle)

    # ---------------------------------------------------------------- signals

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """As asyncio's, but for SIGCHLD: libuv has a handler for it, by which it hears of the ends of children."""
        if sig == signal.SIGCHLD:
            if isinstance(getattr(callback, "__self__", None), _child_watchers):
                warnings.warn(_NO_WATCHER, RuntimeWarning, source=self, skip_file_prefixes=(DIRECTORY,))
                return
            raise RuntimeError(
                "cannot add a handler for SIGCHLD: on the engine 'uvloop' libuv has one, which learns by it that a "
                "child has ended; engine='selector' allows it"
            )
        _UnixLoop.add_signal_handler(self, sig, callback, *args)
        signal.signal(sig, self._signal_came)
        signal.siginterrupt(sig, False)

    @staticmethod
    def _signal_came(signum: int, frame: object) -> None:
        """What Python calls; the wake-up fd has told the loop."""


def _own_queue(loop: Loop, call_soon: Callable[[Callable[[], object]], asyncio.Handle]) -> collections.deque[Any]:
    """What uvloop has scheduled for itself.  It shows that to nobody but the garbage collector.

    A transport that is aborted is closed from there, for example.  That has its place in the order of things: before
    the steps that become ready afterwards.
    """
    handle = call_soon(int)
    for each in gc.get_referents(loop):
        if type(each) is collections.deque and handle in each:
            each.remove(handle)
            return each
    handle.cancel()
    return UNKNOWN


UvEngine._callers = (UvPoll.wait.__code__,)

for _name in OPENING:
    setattr(UvEngine, _name, opening(_name))
for _name in SERVING:
    setattr(UvEngine, _name, serving(_name))
