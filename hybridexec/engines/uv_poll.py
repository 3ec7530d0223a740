"""The poll of the uvloop engine: ``uvloop.Loop.run_forever()``, and ``uvloop.Loop.stop()`` ends it.

``stop`` is called from inside as soon as something has become ready, or beforehand if the poll shall take no time.
libuv ends a run after one more look at its file descriptors; it cannot end sooner.  Other threads, and signal handlers,
write to a self-pipe.  A uvloop timer, which is armed anew only when an earlier one is needed, bounds the poll.

*Connections.*  libuv accepts one of each listening socket per look.  A poll that has accepted one looks again, so that
a queue of them is not served at the rate of the polls, of which there is one after each batch of steps.

*Methods of protocols* are called by uvloop inside of the poll, and by nobody else.  ``lwp.handle`` is ``IN_POLL``
meanwhile, so that what blocks in them is detected; but the loop cannot move.

*Signals.*  On the main thread uvloop puts its own wake-up fd in the place of ours at the begin of each run, and reads,
and drops, what comes there: so the first thing that is done inside is to put ours back, and look what came in between
(``_take_back``).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import asyncio
import collections
import math
import os
import threading
import weakref
from asyncio import events
from collections.abc import Callable
from typing import Any

from ..platform.clock import monotonic, own_time
from ..protocol.lwp import IN_POLL, LWP

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

UNKNOWN: collections.deque[Any] = collections.deque((None,))
"""Stands for a queue that is not known: there may always be something in it."""


class UvPoll:
    """How one loop polls.  The holder polls; any thread may end the poll.

    Args:
        loop: the loop.
        run: uvloop's ``run_forever``.
        stop: uvloop's ``stop``.
        call_soon: uvloop's, which its own queue is filled by.
        call_later: uvloop's.

    Attributes:
        ident: the thread that polls; 0: nobody does.
        ending: the poll will end by itself.
        raised: what has to be raised when the poll has ended.
    """

    def __init__(
        self,
        loop: Any,
        run: Callable[[], None],
        stop: Callable[[], None],
        call_soon: Callable[..., asyncio.Handle],
        call_later: Callable[..., Any],
    ) -> None:
        self._loop = loop
        self._run, self._stop, self._call_soon, self._call_later = run, stop, call_soon, call_later
        self._ready = loop._ready
        self._watching = loop._watching
        self._own = UNKNOWN  # what uvloop has scheduled for itself
        self.ident = 0
        self._on_main = False  # whether that is the main thread
        self._due = 0.0  # before that no poll is needed, if there is work
        self._begins = True  # a run: what was ready before it comes before what a poll brings
        self._skipped = False  # whether the last poll was left out for one of these reasons
        self.ending = False
        self._reserve: list[int] = []  # descriptors for uvloop's next run on the main thread
        self.raised: BaseException | None = None
        self._alarm: Any = None  # the timer that bounds the poll, and when it is due
        self._alarm_due = math.inf

    def knows(self, own: collections.deque[Any]) -> None:
        """uvloop's own queue was found."""
        self._own = own

    def wait(self, timeout: float | None) -> None:
        """Poll.  What is found is handled on the way, or is in the queue afterwards."""
        if timeout == 0 and self._ready and (self._begins or (not self._own and monotonic() < self._due)):
            if self._begins:
                self._begins = False
                _set_running_loop(self._loop)
            self._skipped = True
            return
        self._begins = self._skipped = False
        lwp = self._loop._carrying.holder
        assert lwp is not None
        on_main = lwp.ident == threading.main_thread().ident
        if on_main and len(self._reserve) < 2 and not self._take_reserve():
            own_time.sleep(NO_DESCRIPTORS_PAUSE if timeout is None else min(timeout, NO_DESCRIPTORS_PAUSE))
            return
        self._watching.polls += 1
        self.ending = False  # first: whoever sees the identity below has to see this
        self.ident = lwp.ident
        self._on_main = on_main
        own = bool(self._own) and self._own is not UNKNOWN
        self._begin_look()
        if timeout == 0 or own:
            self.end()  # after one look: if what is uvloop's own made something ready, that would end it after two
        elif self._ready:
            self.end()  # a signal handler has put something there, before it could see that this thread polls
        elif timeout is not None:
            self._set_alarm(timeout)
        lwp.handle = IN_POLL
        _set_running_loop(None)
        try:
            self._look_until_accepted()
        except BaseException as exc:
            self._has_raised(lwp, exc)
        finally:
            _set_running_loop(self._loop)
            self.ident = 0
            self.raised = None
            if lwp.slow_exit:
                self._ended(lwp)
            lwp.handle = None
            if self._on_main:
                self._loop._shield.open()
            self._due = monotonic() + POLL_PAUSE

    def dispatch(self, found: Any) -> None:
        """There is nothing to dispatch."""

    def has_input(self) -> bool:
        """Whether anything was opened that input may come from; what is open now, only uvloop knows."""
        return bool(self._watching.has_input())

    def end(self) -> None:
        """End the poll that this thread is in, or about to be in."""
        if not self.ending:
            self.ending = True
            self._loop._shield.closed = self._on_main
            self._stop()

    def run_ends(self) -> None:
        """What the last steps have told uvloop to close and to write, it does in polls: it polls three times itself
        between a last step and the end (one that reads, one that hears of an end, one that closes).  The last step was
        one turn ago: the one that has stopped the loop was told of its end."""
        for _ in range(LAST_POLLS + self._skipped):
            self._due = 0.0
            self.wait(0)
        self._begins = True
        _set_running_loop(None)

    def close(self) -> None:
        """The loop is closed."""
        self._alarm = None
        self.give_reserve()
        del self._run, self._stop, self._call_soon, self._call_later
        self._loop = weakref.proxy(self._loop)

    # ---------------------------------------------------------------- looks

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
            self.end()
            self._look()

    def _begin_look(self) -> None:
        self.ending = False
        if self._on_main:
            self._call_soon(self._take_back)

    def _look(self) -> None:
        """Run libuv until something ends it."""
        self._loop._shield.closed = self._on_main
        if self._on_main:
            self.give_reserve()
        self._run()
        if self._on_main:
            self._take_reserve()
        if self.raised is not None:
            raise self.raised

    def give_reserve(self) -> None:
        """Close the descriptors that are kept."""
        while self._reserve:
            os.close(self._reserve.pop())

    def _take_reserve(self) -> bool:
        """Keep two descriptors: uvloop opens as many in each of its runs on the main thread, and if there are none it
        says forever that it is running, and cannot even be closed.  Returns whether they could be had."""
        try:
            while len(self._reserve) < 2:
                self._reserve.append(os.dup(self._loop._ssock.fileno()))
        except OSError:
            return False
        return True

    def _set_alarm(self, timeout: float) -> None:
        due = monotonic() + timeout
        if due < self._alarm_due:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm_due = due
            # Up to the next millisecond, as asyncio does with epoll: libuv's own rounding would wake too early.
            self._alarm = self._call_later(math.ceil(timeout * 1e3) * 1e-3, self._rings)

    def _rings(self) -> None:
        self._alarm = None
        self._alarm_due = math.inf
        self.end()

    def _has_raised(self, lwp: LWP, exc: BaseException) -> None:
        """A protocol, or a signal handler, has raised something that uvloop ends its run for."""
        if not isinstance(exc, Exception | SystemExit | KeyboardInterrupt):
            self._loop.call_exception_handler({"message": "Exception in a callback of the poll", "exception": exc})
        elif lwp is self._loop._carrying.home:
            raise exc
        else:
            self._loop._fail(exc)

    @staticmethod
    def _ended(lwp: LWP) -> None:
        """Something in the poll was of the kind that a step is looked at for: none of it concerns the next step."""
        watch = lwp.watch
        if watch.trap is not None or watch.call is not None:
            watch.reactions.step_over(lwp)
        watch.reactions.affinity.after_step(lwp)

    # ---------------------------------------------------------------- signals

    def _take_back(self) -> None:
        """The first thing in a poll on the main thread: the wake-up fd is ours again."""
        loop = self._loop
        _signal.set_wakeup_fd(loop._csock.fileno(), warn_on_full_buffer=False)
        # What came before that is noted by the shield, once its handler was called.  Since 3.14 a call with keywords is
        # no occasion for that; this one is.
        _signal.pthread_sigmask(_signal.SIG_BLOCK, ())
        came = set(loop._shield.pending) & loop._signal_handlers.keys()
        if came:
            told = self._empty_self_pipe()
            loop._process_self_data(told)
            loop._process_self_data(bytes(came - set(told)))
        if not self.ending:
            loop._shield.open()

    def _empty_self_pipe(self) -> bytes:
        try:
            return bytes(self._loop._ssock.recv(4096))
        except BlockingIOError:
            return b""
