"""The uvloop engine: libuv polls and carries the transports; steps, timers and the ready queue are ours.

``uv_run`` cannot be entered twice, so a step that ran on top of it could not be left for another LWP.  Hence no step
does.  The engine uses uvloop's public API alone, in this way:

* *The queue is ours.*  ``call_soon`` and its kin put asyncio's own handles into a deque of ours, and timers into a heap
  of ours; asyncio's tasks and futures call these methods, so their steps land there, too.  What uvloop schedules for
  itself stays in its own queue, and is run inside of the next poll.
* *The poll is* ``uvloop.Loop.run_forever()``, and ``uvloop.Loop.stop()`` ends it: called from inside as soon as
  something has become ready, or beforehand if the poll shall take no time.  libuv ends a run after one more look at its
  file descriptors; it cannot end sooner.  Other threads, and signal handlers, write to a self-pipe.  A uvloop timer,
  which is armed anew only when an earlier one is needed, bounds the poll.
* *Connections.*  libuv accepts one of each listening socket per look.  A poll that has accepted one looks again, so
  that a queue of them is not served at the rate of the polls, of which there is one after each batch of steps.
* *Readers and writers* of the program, and what it opens, are in ``watching.py``.
* *Methods of protocols* are called by uvloop inside of the poll, and by nobody else.  ``lwp.handle`` is ``IN_POLL``
  meanwhile, so that what blocks in them is detected; but the loop cannot move.

An LWP in the poll keeps the loop (``claimable``): when its wait is over, ``uv_run`` goes on before it has the GIL.

*Signals.*  Handlers are registered as asyncio does, with the self-pipe as the wake-up fd.  On the main thread uvloop
puts its own wake-up fd in its place at the begin of each run, and reads, and drops, what comes there: so the first
thing that is done inside is to put ours back, and look what came in between (``_take_back``).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import asyncio
import collections
import contextlib
import functools
import gc
import heapq
import math
import os
import signal
import socket
import threading
import warnings
import weakref
from asyncio import events, unix_events
from asyncio.base_events import BaseEventLoop
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import TYPE_CHECKING, Any

from uvloop.loop import Loop

from ..base import Engine
from ..clock import monotonic, own_time
from ..identity import os_ident
from ..lwp import IN_POLL, LWP
from .handles import FdHandle, Step, ThreadSafeStep, Timer, made_by_caller
from .lacking import Lacking
from .watching import OPENING, SERVING, Watching, opening, serving

_UnixLoop: Any = unix_events._UnixSelectorEventLoop
_Base: Any = BaseEventLoop
_SelectorBase: Any = BaseSelectorEventLoop

_child_watchers: Any = getattr(unix_events, "AbstractChildWatcher", ())  # there are none since 3.14

_NO_WATCHER = (
    "asyncio's child watcher is not attached: on the engine 'uvloop' libuv hears of the ends of children by itself"
)

_OWN = os.path.dirname(os.path.dirname(__file__)) + os.sep

POLL_PAUSE = 0.0005
"""Seconds after a poll during which there is no other one while there is work, and none of uvloop's own: on the main
thread each poll, even if it takes no time, costs some 30 microseconds."""

MOST_LOOKS = 32
"""How often one poll looks at most while each look accepts a connection: the steps that are ready wait meanwhile."""

LOOKS_BOUND = 0.005
"""Seconds after which it looks no more: libuv calls protocols at each look, and they may take their time."""

NO_DESCRIPTORS_PAUSE = 0.01
"""Seconds after which it is tried again to poll on the main thread, where no descriptors were left for that."""

LAST_POLLS = 2
"""How many polls follow the turn that has stopped the loop."""

# The one that uvloop and its tasks, which are in C, look at, whatever a test puts in its place.
_set_running_loop = events._set_running_loop

_UNKNOWN: collections.deque[Any] = collections.deque((None,))
"""Stands for a queue that is not known: there may always be something in it."""

_abandoned: list[UvEngine] = []  # of a forked child: uvloop's complaint that they are not closed would be no help


class UvEngine(Lacking, Loop, Engine):  # type: ignore[misc]
    """``uvloop.Loop`` as an engine."""

    engine_name = "uvloop"
    claimable = False
    _closed = False  # in the place of uvloop's own, which cannot be set

    if TYPE_CHECKING:

        def _fail(self, exc: BaseException) -> None: ...

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
        self._poll_ident = 0  # the thread that polls
        self._on_main = False  # ... and whether that is the main thread
        self._poll_due = 0.0  # before that no poll is needed, if there is work
        self._begins = True  # a run: what was ready before it comes before what a poll brings
        self._skipped = False  # whether the last poll was left out for one of these reasons
        self._ending = False  # the poll will end by itself
        self._reserve: list[int] = []  # descriptors for uvloop's next run on the main thread
        self._raised: BaseException | None = None  # what has to be raised when it is over
        self._alarm: Any = None  # the timer that bounds the poll, and when it is due
        self._alarm_due = math.inf
        self._run_poll = super().run_forever
        self._end_poll = super().stop
        super().__init__()
        self._own = _own_queue(self, super().call_soon)
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

    # ---------------------------------------------------------------- the poll

    def select(self, timeout: float | None) -> None:
        """Poll.  What is found is handled on the way, or is in the queue afterwards."""
        if timeout == 0 and self._ready and (self._begins or (not self._own and monotonic() < self._poll_due)):
            if self._begins:
                self._begins = False
                _set_running_loop(self)
            self._skipped = True
            return
        self._begins = self._skipped = False
        lwp = self._carrying.holder
        assert lwp is not None
        if lwp.ident == threading.main_thread().ident and len(self._reserve) < 2 and not self._take_reserve():
            own_time.sleep(NO_DESCRIPTORS_PAUSE if timeout is None else min(timeout, NO_DESCRIPTORS_PAUSE))
            return
        self._watching.polls += 1
        self._ending = False  # first: who sees the identity below has to see this
        self._poll_ident = lwp.ident
        self._on_main = lwp.ident == threading.main_thread().ident
        own = bool(self._own) and self._own is not _UNKNOWN
        self._begin_look()
        if timeout == 0 or own:
            self._end()  # after one look: if what is uvloop's own made something ready, that would end it after two
        elif self._ready:
            self._end()  # a signal handler has put something there, before it could see that this thread polls
        elif timeout is not None:
            self._set_alarm(timeout)
        lwp.handle = IN_POLL
        _set_running_loop(None)
        try:
            self._look_until_accepted()
        except BaseException as exc:
            self._poll_raised(lwp, exc)
        finally:
            _set_running_loop(self)
            self._poll_ident = 0
            self._raised = None
            if lwp.alert:
                self._polled(lwp)
            lwp.handle = None
            if self._on_main:
                self.shield.open()
            self._poll_due = monotonic() + POLL_PAUSE

    def _look_until_accepted(self) -> None:
        """Poll, and look again while connections are being accepted."""
        watching = self._watching
        before = watching.accepted
        self._look()
        if watching.accepted == before:
            return
        until = monotonic() + LOOKS_BOUND
        for _ in range(MOST_LOOKS - 1):
            if watching.accepted == before or monotonic() >= until:
                return
            before = watching.accepted
            self._begin_look()
            self._end()
            self._look()

    def _begin_look(self) -> None:
        self._ending = False
        if self._on_main:
            super().call_soon(self._take_back)

    def _look(self) -> None:
        """Run libuv until something ends it."""
        self.shield.closed = self._on_main
        if self._on_main:
            self._give_reserve()
        self._run_poll()
        if self._on_main:
            self._take_reserve()
        if self._raised is not None:
            raise self._raised

    def _give_reserve(self) -> None:
        while self._reserve:
            os.close(self._reserve.pop())

    def _take_reserve(self) -> bool:
        """Keep two descriptors: uvloop opens as many in each of its runs on the main thread, and if there are none it
        says for ever that it is running, and cannot even be closed.  Returns whether they could be had."""
        try:
            while len(self._reserve) < 2:
                self._reserve.append(os.dup(self._ssock.fileno()))
        except OSError:
            return False
        return True

    def unmake(self) -> None:
        """Its making has failed half way: its finalizer closes what there is."""
        self._give_reserve()

    def stopped(self) -> None:
        """What the last steps have told uvloop to close and to write, it does in polls: it polls three times itself
        between a last step and the end (one that reads, one that hears of an end, one that closes).  The last step was
        one turn ago: the one that has stopped the loop was told of its end."""
        for _ in range(LAST_POLLS + self._skipped):
            self._poll_due = 0.0
            self.select(0)
        self._begins = True
        _set_running_loop(None)

    def dispatch(self, found: Any) -> None:
        """There is nothing to dispatch."""

    def has_input(self) -> bool:
        """Whether anything was opened that input may come from; what is open now, only uvloop knows."""
        return self._watching.has_input()

    def _end(self) -> None:
        """End the poll that this thread is in, or about to be in."""
        if not self._ending:
            self._ending = True
            self.shield.closed = self._on_main
            self._end_poll()

    def _write_to_self(self) -> None:
        """End the poll.  Any thread, and signal handlers."""
        if self._poll_ident == os_ident():
            self._end()
        else:
            _SelectorBase._write_to_self(self)

    def _poked(self) -> None:
        """There is something in the self-pipe."""
        self._read_from_self()
        self._end()

    def _set_alarm(self, timeout: float) -> None:
        due = self.time() + timeout
        if due < self._alarm_due:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm_due = due
            # Up to the next millisecond, as asyncio does with epoll: libuv's own rounding would wake too early.
            self._alarm = super().call_later(math.ceil(timeout * 1e3) * 1e-3, self._rings)

    def _rings(self) -> None:
        self._alarm = None
        self._alarm_due = math.inf
        self._end()

    def _poll_raised(self, lwp: LWP, exc: BaseException) -> None:
        """A protocol, or a signal handler, has raised something that uvloop ends its run for."""
        if not isinstance(exc, Exception | SystemExit | KeyboardInterrupt):
            self.call_exception_handler({"message": "Exception in a callback of the poll", "exception": exc})
        elif lwp is self._carrying.home:
            raise exc
        else:
            self._fail(exc)

    def _polled(self, lwp: LWP) -> None:
        """Something in the poll was of the kind that a step is looked at for: none of it concerns the next step."""
        if lwp.trap is not None or lwp.call is not None:
            self._carrying.reactions.step_over(lwp)
        self._carrying.reactions.affinity.after_step(lwp)

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
        if self._poll_ident and not self._ending:  # else the holder looks at the queue once more before it polls
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
        if self._poll_ident and not self._ending:
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
        if self._poll_ident and not self._ending:  # it may have to be bounded anew
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
        if self._poll_ident and not self._ending:
            self._write_to_self()
        return timer

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """As asyncio's.  If it raises in the poll that is kept until the poll is over: uvloop would end the process."""
        try:
            _Base.call_exception_handler(self, context)
        except BaseException as exc:
            if self._poll_ident != os_ident():
                raise
            self._raised = exc
            self._end()

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
        del self._run_poll, self._end_poll
        self._alarm = None
        self._give_reserve()
        self._ssock.close()
        self._csock.close()
        for sig in list(self._signal_handlers):
            self.remove_signal_handler(sig)
        for warning in caught:
            try:
                warnings.warn(warning.message, source=warning.source, skip_file_prefixes=(_OWN,))
            except Warning as exc:
                self.call_exception_handler({"message": "A warning at the close of a loop", "exception": exc})

    def abandon(self) -> None:
        """libuv's epoll is shared with the parent, and closing the loop would take the parent's descriptors out of it:
        so it is never closed."""
        _abandoned.append(self)
        self._watching.abandon()
        if self._poll_ident:
            self._end()

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

    def put_back(self, handle: FdHandle) -> None:
        """As the selector engine's."""
        self._watching.put_back(handle)

    # ---------------------------------------------------------------- signals

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """As asyncio's, but for SIGCHLD: libuv has a handler for it, by which it hears of the ends of children."""
        if sig == signal.SIGCHLD:
            if isinstance(getattr(callback, "__self__", None), _child_watchers):
                warnings.warn(_NO_WATCHER, RuntimeWarning, source=self, skip_file_prefixes=(_OWN,))
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

    def _take_back(self) -> None:
        """The first thing in a poll on the main thread: the wake-up fd is ours again."""
        _signal.set_wakeup_fd(self._csock.fileno(), warn_on_full_buffer=False)
        # What came before that is noted by the shield, once its handler was called.  Since 3.14 a call with keywords is
        # no occasion for that; this one is.
        _signal.pthread_sigmask(_signal.SIG_BLOCK, ())
        came = set(self.shield.pending) & self._signal_handlers.keys()
        if came:
            told = self._empty_self_pipe()
            self._process_self_data(told)
            self._process_self_data(bytes(came - set(told)))
        if not self._ending:
            self.shield.open()

    def _empty_self_pipe(self) -> bytes:
        try:
            return self._ssock.recv(4096)
        except BlockingIOError:
            return b""


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
    return _UNKNOWN


UvEngine.callers = (UvEngine.select.__code__,)

for _name in OPENING:
    setattr(UvEngine, _name, opening(_name))
for _name in SERVING:
    setattr(UvEngine, _name, serving(_name))
