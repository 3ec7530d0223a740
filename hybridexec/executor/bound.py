"""LWPs of their own: for bound user threads (``bound=True``), and for all of them in the model "1:1".

Each such user thread has an OS thread, made for it and ended with it, and, if it is a coroutine, an event loop of
asyncio's own, which never moves: so every step is taken on that thread, nobody else's is, and a call that blocks holds
up nobody else.  There are at most so many at a time; who comes when all are taken is READY, and the LWP that ends next
has its successor started.

The count changes under the executor's lock; threads are started without it (``loop_thread.py`` says why).  A thread
that has ended, or is about to, is in ``_ended`` until somebody has waited for that.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from ..observing.log import say
from ..platform.children import Worker
from ..platform.threads import os_thread

if TYPE_CHECKING:
    from .crew import Crew
    from .user_thread import UserThread


class BoundLWP:
    """An LWP that one user thread is bound to.

    Args:
        pool: the pool.
        name: the name of its thread.
        user_thread: the user thread.
    """

    def __init__(self, pool: BoundLWPs, name: str, user_thread: UserThread[Any]) -> None:
        self._pool = pool
        self.name = name
        self._user_thread: UserThread[Any] | None = user_thread
        self._runner = asyncio.Runner(loop_factory=asyncio.SelectorEventLoop)
        self.plain_loop: asyncio.AbstractEventLoop | None = None
        self.thread = Worker(self._main, name)

    def __repr__(self) -> str:
        return f"<BoundLWP {self.name}>"

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Its loop."""
        assert self.plain_loop is not None
        return self.plain_loop

    def cancel(self, task: asyncio.Task[Any]) -> bool:
        """Have the loop cancel a task.  Any thread.  Returns whether it will."""
        loop = self.loop
        if asyncio.events._get_running_loop() is loop:
            return task.cancel()
        try:
            loop.call_soon_threadsafe(task.cancel)
        except RuntimeError:  # it is closed
            return False
        return True

    def left(self, user_thread: UserThread[Any]) -> None:
        """The user thread is done.  The executor's lock is held."""
        if self.plain_loop is not None:
            self.plain_loop.stop()

    def drive(self, user_thread: UserThread[Any], coroutine: Coroutine[Any, Any, Any]) -> None:
        """Drive the coroutine of the user thread, in its step, until that is done."""
        self.plain_loop = loop = self._runner.get_loop()
        loop.call_soon(user_thread.drive, coroutine)
        while not self._done():
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as exc:
                say(logging.ERROR, "a callback on %s raised; the loop continues", self.name, exc=exc)

    def _done(self) -> bool:
        user_thread = self._user_thread
        return user_thread is None or user_thread.future.done()

    def _main(self) -> None:
        user_thread = self._user_thread
        assert user_thread is not None
        try:
            if self._pool.crew.initialize():
                user_thread.context.run(user_thread.begin, self)
            self._user_thread = user_thread = None
            self._runner.close()
        except BaseException as exc:
            say(logging.CRITICAL, "the LWP %s ends", self.name, exc=exc)
            if user_thread is not None:
                user_thread.fail(exc)
        finally:
            self._pool.ended(self)


class BoundLWPs:
    """The LWPs of one executor that user threads are bound to.

    Args:
        crew: the executor's.
        limit: how many there may be at a time.
    """

    def __init__(self, crew: Crew, limit: int) -> None:
        self.crew = crew
        self._limit = limit
        self._count = 0
        self._serial = 0
        self._waiting: collections.deque[UserThread[Any]] = collections.deque()
        self._alive: set[BoundLWP] = set()
        self._ended: collections.deque[Worker] = collections.deque()

    def __len__(self) -> int:
        return self._count

    def waiting(self) -> int:
        """How many user threads wait for one."""
        return len(self._waiting)

    def assign(self, user_thread: UserThread[Any]) -> Callable[[], None] | None:
        """A user thread gets an LWP.  The lock is held; returns what has to be called after it is released."""
        if self._count >= self._limit:
            self._waiting.append(user_thread)
            user_thread.place = NOWHERE
            return None
        self._count += 1
        self._serial += 1
        lwp = BoundLWP(self, f"{self.crew.name}-bound-{self._serial}", user_thread)
        user_thread.place = lwp
        self._alive.add(lwp)

        def start() -> None:
            self._reap()
            try:
                lwp.thread.start()
            except BaseException:
                with self.crew.lock:
                    self._count -= 1
                    self._alive.discard(lwp)
                raise

        return start

    def ended(self, lwp: BoundLWP) -> None:
        """An LWP's thread ends, but for its last few instructions.  Its successor is started, if one waits."""
        with self.crew.lock:
            self._count -= 1
        try:
            while not self._succeeded():
                pass
        finally:
            # Not before: who starts an LWP waits for those that have ended, and two would wait for each other.
            with self.crew.lock:
                self._alive.discard(lwp)
                self._ended.append(lwp.thread)

    def _succeeded(self) -> bool:
        """Start an LWP for the first who waits.  Returns False if the system has no thread for him, who has failed."""
        with self.crew.lock:
            following = None
            while self._waiting and following is None:
                user_thread = self._waiting.popleft()
                if not user_thread.future.done():
                    following = self.assign(user_thread)
        if following is not None:
            try:
                following()
            except RuntimeError as exc:
                user_thread.fail(exc)
                return False
        return True

    def join(self) -> None:
        """Wait until the last thread has ended."""
        while True:
            with self.crew.lock:
                alive = list(self._alive)
            if not alive:
                break
            for lwp in alive:
                lwp.thread.await_done()
        self._reap()

    def _reap(self) -> None:
        me = os_thread()
        for _ in range(len(self._ended)):
            try:
                thread = self._ended.popleft()
            except IndexError:
                return
            if thread is me:
                self._ended.append(thread)
            else:
                thread.await_done()


class _Nowhere:
    """The place of a user thread that waits for an LWP."""

    name = "-"
    plain_loop = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        raise RuntimeError("the user thread has no loop yet")

    def drive(self, user_thread: UserThread[Any], coroutine: Coroutine[Any, Any, Any]) -> None:
        raise RuntimeError("the user thread has no loop yet")

    def cancel(self, task: asyncio.Task[Any]) -> bool:
        return False

    def left(self, user_thread: UserThread[Any]) -> None:
        return None


NOWHERE = _Nowhere()
