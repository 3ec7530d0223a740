"""The crew of an executor: its loops, its bound LWPs, and the list of its user threads.

The executor that a program holds is only a face of this: so a program that forgets its executor lets it go, though its
threads know the crew.  The crew's states, changed under ``lock``::

        OPEN ------> CLOSING ------> CLOSED
          |             ^
          +-> BROKEN ---+                      any ------> FORKED

* **OPEN**: it takes user threads.
* **BROKEN**: an initializer has raised, or a loop has died.  Nothing new is taken, what had not started has failed, and
  what had started goes on.
* **CLOSING**: it was shut down.  Nothing new is taken; what it has is done to the end, which may be long.
* **CLOSED**: the last user thread is done; the loops have been told to stop.
* **FORKED**: this process is a child; the threads are in the parent.

The lock is an ``RLock``: a finalizer or a signal handler may submit on a thread that is inside.  Nothing that could
block, and that the detector sees, happens while it is held (``loop_thread.py`` says why); so whatever has to be done
for a decision (to start, to wake) is returned by the one who decides, and is done after the lock is released.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import enum
import itertools
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

from ..observing.log import say
from ..platform.clock import monotonic
from . import ending
from .bound import BoundLWPs
from .loop_thread import LoopThread, LoopThreadState
from .pending import Permits
from .user_thread import Place, Stage, UserThread

FORKED_ADVICE = (
    "this executor belongs to the parent process, and os.fork() has left its threads there: make a new one in the child"
)


class CrewState(enum.Enum):
    """Whether an executor takes user threads.  Changes only under its lock."""

    OPEN = "open"
    BROKEN = "broken"
    CLOSING = "closing"
    CLOSED = "closed"
    FORKED = "forked"


class Crew:
    """What is behind an executor.

    Args:
        name: what the names of its threads begin with.
        loops: how many loops its user threads share; 0: each has an LWP of its own.
        make_loop: makes a loop.
        bound: how many LWPs there may be that user threads are bound to.
        pending: how many user threads there may be that are not done; None: no end of them.
        initializer: what each LWP calls before anything else; it may raise.
    """

    def __init__(
        self,
        *,
        name: str,
        loops: int,
        make_loop: Callable[[Crew], asyncio.AbstractEventLoop],
        bound: int,
        pending: int | None,
        initializer: Callable[[], object] | None,
    ) -> None:
        self.name = name
        self._initializer = initializer
        self.loop_threads = [
            LoopThread(self, f"{name}-{number}", lambda: make_loop(self)) for number in range(1, loops + 1)
        ]
        self.bound = BoundLWPs(self, bound)
        self.permits = Permits(pending)
        self._serials = itertools.count(1)
        self._reason = ""
        self._cause: BaseException | None = None
        self._reset(CrewState.OPEN)
        self.submitted = self.moved = 0
        ending.watch(self)

    def _reset(self, state: CrewState) -> None:
        self.lock = threading.RLock()
        self.state = state
        self.live: dict[UserThread[Any], None] = {}

    # ---------------------------------------------------------------- a user thread, from its birth to its end

    def launch(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        bound: bool = False,
    ) -> UserThread[Any]:
        """Make a user thread and place it.  The caller has taken a place for it, which is given back if this raises."""
        call_hunters: list[LoopThread] = []
        try:
            user_thread: UserThread[Any] = UserThread(self, next(self._serials), fn, args, kwargs, name, bound)
            with self.lock:
                self._check()
                self.live[user_thread] = None
                self.submitted += 1
                if bound or not self.loop_threads:
                    then = self.bound.assign(user_thread)
                else:
                    loop_thread = self._least_loaded()
                    then = loop_thread.assign(user_thread)
                    if len(self.loop_threads) > 1 and loop_thread.is_busy():
                        call_hunters = self._hunters(loop_thread)
        except BaseException:
            self.permits.give_back()
            raise
        try:
            if then is not None:
                then()
        except BaseException:
            user_thread.stage = Stage.DONE
            self.retire(user_thread)
            raise
        for hunter in call_hunters:
            hunter.call_hunter()
        return user_thread

    def starts(self, user_thread: UserThread[Any], place: Place) -> bool:
        """A user thread is about to take its first step.  Returns whether it may, in this place."""
        call_hunters: list[LoopThread] = []
        with self.lock:
            if user_thread.stage is not Stage.QUEUED or user_thread.place is not place:
                return False
            user_thread.stage = Stage.CALLING
            if isinstance(place, LoopThread) and place.begins(user_thread) and len(self.loop_threads) > 1:
                call_hunters = self._hunters(place)
        for hunter in call_hunters:
            hunter.call_hunter()
        return True

    def retire(self, user_thread: UserThread[Any]) -> None:
        """A user thread is done, or never begins."""
        with self.lock:
            if user_thread not in self.live:
                return
            del self.live[user_thread]
            user_thread.stage = Stage.DONE
            user_thread.place.left(user_thread)
            ends = self._closes()
        self.permits.give_back()
        for loop_thread in ends:
            loop_thread.end()

    def move(self, to: LoopThread) -> tuple[UserThread[Any] | None, bool]:
        """Move a user thread that has waited too long.  The lock is held.

        Returns:
            The user thread, if there is one, and whether others wait.
        """
        now = monotonic()
        waiting = False
        for loop_thread in self.loop_threads:
            if loop_thread is to or not loop_thread.queued:
                continue
            if loop_thread.is_late(now):
                user_thread = next(iter(loop_thread.queued))
                loop_thread.left(user_thread)
                to.takes(user_thread, now)
                self.moved += 1
                return user_thread, True
            waiting = True
        return None, waiting

    def exhausted(self, loop: object) -> None:
        """A loop has no spare left: those that wait in its queue shall go elsewhere."""
        with self.lock:
            loop_thread = next((loop_thread for loop_thread in self.loop_threads if loop_thread._loop is loop), None)
            call_hunters = [] if loop_thread is None or not loop_thread.queued else self._hunters(loop_thread)
        for hunter in call_hunters:
            hunter.call_hunter()

    def _least_loaded(self) -> LoopThread:
        loops = self.loop_threads
        return loops[0] if len(loops) == 1 else min(loops, key=lambda loop_thread: loop_thread.load)

    def _hunters(self, busy: LoopThread) -> list[LoopThread]:
        return [other for other in self.loop_threads if other is not busy and other.calls_hunter()]

    # ---------------------------------------------------------------- what an LWP does first

    def initialize(self) -> bool:
        """Call the initializer, on an LWP that has just started.  Returns whether it has not raised."""
        if self._initializer is None:
            return True
        try:
            self._initializer()
        except BaseException as exc:
            say(logging.CRITICAL, "an initializer of %s raised", self.name, exc=exc)
            self.breaks("an initializer of the executor has raised, and it is not usable any more", cause=exc)
            return False
        return True

    def breaks(self, reason: str, place: Place | None = None, *, cause: BaseException) -> None:
        """The executor is not usable any more: what has not started fails.

        Args:
            reason: why.
            place: one that has died: what had started there fails too.
            cause: what was raised; only the program is told of its text.
        """
        with self.lock:
            if self.state is CrewState.OPEN:
                self.state = CrewState.BROKEN
            self._reason, self._cause = self._reason or reason, self._cause or cause
            failed = [
                user_thread
                for user_thread in self.live
                if user_thread.stage is Stage.QUEUED or user_thread.place is place
            ]
            for user_thread in failed:
                user_thread.stage = Stage.CALLING  # nobody else starts or cancels it
        for user_thread in failed:
            user_thread.fail(self.broken())

    def broken(self) -> concurrent.futures.thread.BrokenThreadPool:
        """What is raised for who comes too late."""
        broken = concurrent.futures.thread.BrokenThreadPool(self._reason)
        broken.__cause__ = self._cause
        return broken

    # ---------------------------------------------------------------- the end

    def shutdown(self, *, cancel: bool) -> None:
        """Take no more user threads, and end when the last one is done.

        Args:
            cancel: cancel those that have not started.
        """
        with self.lock:
            if self.state in (CrewState.OPEN, CrewState.BROKEN):
                self.state = CrewState.CLOSING
            queued = [user_thread for user_thread in self.live if user_thread.stage is Stage.QUEUED] if cancel else []
            ends = self._closes()
        self.permits.close(RuntimeError("cannot schedule new futures after shutdown"))
        for user_thread in queued:
            if user_thread.stage is Stage.QUEUED:
                user_thread.cancel()
        for loop_thread in ends:
            loop_thread.end()

    def join(self) -> None:
        """Wait until every thread has ended, or lives on for the processes that it has started alone.

        Raises:
            RuntimeError: the calling code is a step of the executor, which would wait for itself.
        """
        if self.state is CrewState.FORKED:
            return
        if self.runs_here():
            raise RuntimeError("shutdown(wait=True) in a user thread of the executor would wait for itself")
        for loop_thread in self.loop_threads:
            if loop_thread.thread is not None:
                loop_thread.thread.await_done()
        self.bound.join()

    def runs_here(self) -> bool:
        """Whether the calling code is a step of this executor."""
        loop = asyncio.events._get_running_loop()
        return loop is not None and loop in self.loops()

    def loops(self) -> Iterable[asyncio.AbstractEventLoop]:
        """The loops that user threads share."""
        return [loop_thread._loop for loop_thread in self.loop_threads if loop_thread._loop is not None]

    def forked(self) -> None:
        """This process is a child, and the threads are in the parent."""
        live = self.live
        self._reset(CrewState.FORKED)
        for user_thread in live:
            ending.orphan(user_thread.future, concurrent.futures.thread.BrokenThreadPool(FORKED_ADVICE))

    def _closes(self) -> list[LoopThread]:
        """Whether it is time to end.  The lock is held; returns which loops have to be stopped after it is released."""
        if self.state is not CrewState.CLOSING or self.live:
            return []
        self.state = CrewState.CLOSED
        started = [loop_thread for loop_thread in self.loop_threads if loop_thread.state is LoopThreadState.STARTED]
        for loop_thread in started:
            loop_thread.state = LoopThreadState.ENDING
        return started

    def _check(self) -> None:
        if self.state is CrewState.OPEN and not ending.exits:
            return
        if self.state is CrewState.FORKED:
            raise RuntimeError(FORKED_ADVICE)
        if self._reason:
            raise self.broken()
        if ending.exits:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        if self.state is not CrewState.OPEN:
            raise RuntimeError("cannot schedule new futures after shutdown")
