"""Loop threads: the loops that many user threads share, each with its home.

A *loop thread* is an event loop and the pool thread that is its home LWP (``run_forever``).  In the model "m:n" the
loop is one that moves; in "n:1", the control, it is asyncio's own.  Its states, changed under the executor's lock::

        NEW ------> STARTED ------> ENDING

* **NEW**: there is no thread yet: the first user thread that is placed here has it started.  That is done by whoever
  placed it, *without* the lock (see below); what others place here meanwhile, the home finds when it begins.
* **STARTED**, **ENDING**: the executor is shut down and its last user thread is done; the loop stops.

**How a user thread comes to its first step.**  It is put into ``queued`` and ``arrived``, and the loop is *summoned*,
if it is not already: one wake-up for all that arrive until it has come.  Then each of them gets a step of its own in
the loop's ready queue, and whoever comes from there and is still queued here begins.  So what is ready goes on in
between (first in, first out), and a user thread can be moved until its step has come, even out of a ready queue.

If the loop is one that moves and polls as asyncio does, its ready queue is filled from outside at once, and a *parked*
LWP is woken, not the one that polls (``Carrying.hail``): if the step blocks, a poller is in its place already.

**How it is moved.**  A loop thread whose queue goes on waiting behind a step calls the others to *hunt*.  A hunter has
a step in its own loop: so an idle loop hunts at once, a busy one when it comes to it.  It takes from any loop thread
that has begun no user thread for ``MOVE_AFTER`` although some are queued: its loop is busy with one step, or with many,
or has no spare left (an upcall says so).  While others are queued but not so long, it looks again later.  One is taken
at a time, and begins before the next is looked for.  (Go's idle Ps steal at once.  Here a user thread that has started
stays for life, so a hasty theft would not be put right by the next one.)

**The lock is never held across a call that can block and that the detector sees**, such as starting a thread: the LWP
would leave the loop, and the next one, which wants the lock in its first step, would stand still with the loop, since
this package's own code is not looked at.

Races that are possible, and why they are safe:

* *Summoned while it comes.*  ``summoned`` is taken back under the lock before ``arrived`` is looked at.
* *A hunter that finds nothing, and one who has just called.*  ``hunting`` is taken back under the lock, in the same
  move in which nothing was found; who queues a user thread after that calls again.
* *The loop has ended.*  It ends only after the last user thread of the executor is done, and none is placed after that.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from ..loop.loop import HybridLoop
from ..observing.log import say, told
from ..platform.children import Worker
from ..platform.clock import monotonic
from .user_thread import Stage

if TYPE_CHECKING:
    from .crew import Crew
    from .user_thread import UserThread

MOVE_AFTER = 0.01
"""Seconds for which a loop must have begun no user thread, with some in its queue, until another takes them away.  Two
of the interpreter's switch intervals: for one, a thread that could run may have waited for the GIL alone."""


class LoopThreadState(enum.Enum):
    """How far a loop thread has come.  Changes only under the lock of its executor."""

    NEW = "new"
    STARTED = "started"
    ENDING = "ending"


class LoopThread:
    """A loop and its home.

    Args:
        crew: the executor's.
        name: the name of the home thread.
        make_loop: makes the loop.
    """

    def __init__(self, crew: Crew, name: str, make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._crew = crew
        self.name = name
        self._make_loop = make_loop
        self.state = LoopThreadState.NEW
        self._loop: asyncio.AbstractEventLoop | None = None
        self.thread: Worker | None = None
        self.load = 0  # how many user threads belong here
        self.queued: dict[UserThread[Any], None] = {}  # those that have not begun, the oldest first
        self._arrived: list[UserThread[Any]] = []
        self._summoned = False
        self._direct: HybridLoop | None = None  # the loop, if its ready queue may be filled from outside
        self._hunting = False
        self._progress = 0.0  # when the queue was empty, or one of it began

    def __repr__(self) -> str:
        return f"<LoopThread {self.name} {self.state.value} load={self.load}>"

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop."""
        assert self._loop is not None
        return self._loop

    @property
    def plain_loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop, if it is one that does not move."""
        return None if isinstance(self._loop, HybridLoop) else self._loop

    # ---------------------------------------------------------------- under the executor's lock

    def assign(self, user_thread: UserThread[Any]) -> Callable[[], None] | None:
        """A user thread belongs here from now on.  Returns what has to be called after the lock is released."""
        user_thread.place = self
        self.load += 1
        if not self.queued:
            self._progress = monotonic()
        self.queued[user_thread] = None
        if self.state is LoopThreadState.NEW:
            self.state = LoopThreadState.STARTED
            self._summoned = True  # the home comes by itself
            self._arrived.append(user_thread)
            return self._start
        loop = self._direct
        if loop is not None:
            then = None
            if not self._summoned and not loop._is_carried_here():
                self._summoned = True
                loop._enqueue(self._admit, ())
                then = loop._hail
            loop._enqueue(user_thread.begin, (self,), user_thread.context)
            return then
        self._arrived.append(user_thread)
        if self._summoned:
            return None
        self._summoned = True
        return self._summon

    def begins(self, user_thread: UserThread[Any]) -> bool:
        """A user thread begins.  Returns whether others go on waiting."""
        del self.queued[user_thread]
        self._progress = monotonic()
        return bool(self.queued)

    def gives_up(self, user_thread: UserThread[Any]) -> None:
        """A user thread is moved away, or was cancelled before it began."""
        self.queued.pop(user_thread, None)

    def left(self, user_thread: UserThread[Any]) -> None:
        """A user thread is done."""
        self.queued.pop(user_thread, None)
        self.load -= 1

    def is_late(self, now: float) -> bool:
        """Whether a user thread waits here, and has waited for so long that another loop may take it."""
        return bool(self.queued) and now - self._progress >= MOVE_AFTER

    def is_busy(self) -> bool:
        """Whether somebody executes on the loop, or nobody can, as far as can be told."""
        return isinstance(self._loop, HybridLoop) and self._loop._is_busy()

    def calls_hunter(self) -> bool:
        """Somebody calls for help.  Returns whether :meth:`call_hunter` has to be called after the lock is released."""
        if self._hunting or self.state is not LoopThreadState.STARTED or self._loop is None:
            return False
        self._hunting = True
        return True

    # ---------------------------------------------------------------- any thread, without the lock

    def drive(self, user_thread: UserThread[Any], coroutine: Coroutine[Any, Any, Any]) -> None:
        """Drive the coroutine of a user thread that has begun here, in its step."""
        user_thread.drive(coroutine)

    def cancel(self, task: asyncio.Task[Any]) -> bool:
        """Have the loop cancel a task.  Returns whether it will."""
        if asyncio.events._get_running_loop() is self._loop:
            return task.cancel()
        return self._post(task.cancel)

    def call_hunter(self) -> None:
        """Have the loop look for user threads that wait elsewhere."""
        self._post(self._hunt)

    def end(self) -> None:
        """There is nothing to do any more: have the loop stopped."""
        self._post(self.loop.stop)

    def _summon(self) -> None:
        self._post(self._admit)

    def _post(self, callback: Callable[[], object]) -> bool:
        try:
            self.loop.call_soon_threadsafe(callback)
        except RuntimeError:  # it is closed
            return False
        return True

    def _start(self) -> None:
        """Start the home.

        Raises:
            RuntimeError: the system has no more threads to give.
            DetectorUnavailableError: the loop cannot work in this process.
        """
        try:
            self._loop = self._make_loop()
            thread = Worker(self._main, self.name)
            thread.start()
        except BaseException:
            loop, self._loop = self._loop, None
            if loop is not None:
                loop.close()
            with self._crew.lock:
                self.state = LoopThreadState.NEW
                self._summoned = False
            raise
        self.thread = thread
        if isinstance(self._loop, HybridLoop) and isinstance(self._loop, asyncio.SelectorEventLoop):
            self._direct = self._loop

    # ---------------------------------------------------------------- the home

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                loop = runner.get_loop()
                if self._crew.initialize():
                    loop.call_soon(self._admit)
                while self.state is not LoopThreadState.ENDING:
                    try:
                        loop.run_forever()
                    except (SystemExit, KeyboardInterrupt) as exc:
                        # If it was a step of a user thread, that has it, too.
                        say(logging.ERROR, "a callback on %s raised; the loop continues", self.name, exc=exc)
        except BaseException as exc:
            say(logging.CRITICAL, "the home %s ends", self.name, exc=exc)
            self._crew.breaks(f"a loop of the executor was ended by {told(exc)}", self, cause=exc)

    # ---------------------------------------------------------------- steps of the loop

    def _admit(self) -> None:
        """Give each user thread that has arrived a step of its own."""
        with self._crew.lock:
            self._summoned = False
            arrived, self._arrived = self._arrived, []
        for user_thread in arrived:
            self._ready(user_thread)

    def _ready(self, user_thread: UserThread[Any]) -> None:
        if user_thread.stage is Stage.QUEUED and user_thread.place is self:
            self.loop.call_soon(user_thread.begin, self, context=user_thread.context)

    def _hunt(self) -> None:
        """Take a user thread that waits elsewhere for too long."""
        with self._crew.lock:
            found, waiting = self._crew.move(self)
            self._hunting = found is not None or waiting
        if found is not None:
            self._ready(found)
            self.loop.call_soon(self._hunt)
        elif waiting:
            self.loop.call_later(MOVE_AFTER, self._hunt)

    def takes(self, user_thread: UserThread[Any], since: float) -> None:
        """A user thread is moved here.  The executor's lock is held."""
        user_thread.place = self
        user_thread.context = user_thread.context.copy()  # the step in its old loop's ready queue enters the other one
        self.load += 1
        if not self.queued:
            self._progress = since
        self.queued[user_thread] = None
