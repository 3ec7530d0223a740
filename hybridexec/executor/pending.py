"""Back-pressure: at most so many user threads that are not done.

Whoever wants a permit and finds none queues with a future of his own; whoever gives one back hands it to the head of
the queue, so permits are given in the order in which they were asked for.  A waiter that gives up cancels its future:
``set_running_or_notify_cancel`` decides, in one move, whether it has given up or has been given the permit.
"""

from __future__ import annotations

import collections
from concurrent.futures import Future
from threading import RLock


class Permits:
    """The permits of one executor.  Any thread may use it.

    Args:
        limit: how many there are; None: unlimited.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._lock = RLock()
        self._taken = 0
        self._queue: collections.deque[Future[None]] = collections.deque()
        self._closed: Exception | None = None

    def take(self) -> bool:
        """Take a permit, if there is one and nobody waits for it."""
        if self.limit is None:
            return True
        with self._lock:
            if self._taken >= self.limit or self._queue:
                return False
            self._taken += 1
            return True

    def ask(self) -> Future[None]:
        """Queue for a permit.  It is had when the future is done; if the executor is shut down, that raises."""
        future: Future[None] = Future()
        if self.take():
            future.set_result(None)
            return future
        with self._lock:
            closed = self._closed
            if closed is None:
                self._queue.append(future)
        if closed is not None:
            future.set_exception(closed)
        elif self.take_for_next():
            self.give_back()  # one was given back just before
        return future

    def take_for_next(self) -> bool:
        """Take a permit for the head of the queue, if there is one."""
        with self._lock:
            if not self._queue or self.limit is None or self._taken >= self.limit:
                return False
            self._taken += 1
            return True

    def give_back(self) -> None:
        """Give a permit back: the head of the queue gets it."""
        if self.limit is None:
            return
        while True:
            with self._lock:
                if not self._queue:
                    self._taken -= 1
                    return
                waiter = self._queue.popleft()
            if waiter.set_running_or_notify_cancel():
                waiter.set_result(None)
                return

    def close(self, reason: Exception) -> None:
        """Nobody who waits gets a permit any more.

        Args:
            reason: what is raised for those who wait.
        """
        with self._lock:
            self._closed = reason
            waiters = list(self._queue)
            self._queue.clear()
        for waiter in waiters:
            if waiter.set_running_or_notify_cancel():
                waiter.set_exception(reason)
