"""The future of a user thread: one of ``concurrent.futures`` that can cancel what runs.

The standard class knows four moves: pending, running, finished, and cancelled *before* it runs.  Here a running
coroutine can be cancelled too, as its task can: the future goes from running to cancelled once the coroutine has ended
that way.  So ``cancel`` asks the user thread, and the moves that follow the start are made here.

They are made with the future's own lock, by this package's own code, and so is what asyncio asks of a future that it
wraps: while a loop that moves exists, the detector looks at every lock that the standard library's code takes, but not
at those of this package's.  What a future is once it is done it stays, so that is read without the lock.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, RUNNING
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .user_thread import UserThread


_CANCELLED = (CANCELLED, CANCELLED_AND_NOTIFIED)
_DONE = (FINISHED, *_CANCELLED)


class UserThreadFuture(concurrent.futures.Future[Any]):
    """What becomes of a user thread.

    Args:
        user_thread: the user thread; the two know each other until it is done.
    """

    _condition: Any  # of the standard class, whose stub does not know all of it
    _waiters: list[Any]
    _result: Any
    _exception: BaseException | None
    _done_callbacks: list[Any]

    def __init__(self, user_thread: UserThread[Any]) -> None:
        super().__init__()
        self._user_thread: UserThread[Any] | None = user_thread

    def cancel(self) -> bool:
        """Cancel the user thread: at once if it has not started, else, if it is a coroutine, as a task is cancelled.

        Returns:
            Whether it is or will be cancelled.  False if it is done, or runs a plain callable.  (A coroutine may
            refuse: then the future ends with its result.)

        Any thread may call it.
        """
        user_thread = self._user_thread
        return super().cancel() if user_thread is None else user_thread.cancel()

    def starts(self) -> None:
        """It runs from now on.  The caller has made sure that nobody has cancelled it, and that nobody can."""
        condition = self._condition
        condition.acquire()
        try:
            self._state = RUNNING
        finally:
            condition.release()

    def cancelled(self) -> bool:
        """Whether it was cancelled.  Any thread may ask."""
        return self._state in _CANCELLED

    def done(self) -> bool:
        """Whether it has ended, in whatever way.  Any thread may ask."""
        return self._state in _DONE

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end, as the standard class does."""
        if self._state == FINISHED and self._exception is None:
            return self._result
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end, as the standard class does."""
        return self._exception if self._state == FINISHED else super().exception(timeout)

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[Any]], object]) -> None:
        """Call a callable with the future when it is done, as the standard class does."""
        condition = self._condition
        condition.acquire()
        try:
            if self._state not in _DONE:
                self._done_callbacks.append(fn)
                return
        finally:
            condition.release()
        super().add_done_callback(fn)

    def discard(self) -> None:
        """It never runs."""
        self._user_thread = None
        super().cancel()
        if self._state == CANCELLED:
            self.set_running_or_notify_cancel()  # tells those who wait for several

    def settle(self, result: Any, exception: BaseException | None, *, cancelled: bool = False) -> None:
        """It has run to its end.

        Args:
            result: what it has returned.
            exception: what it has raised, if it has.
            cancelled: whether it was cancelled; then there is neither.
        """
        condition = self._condition
        condition.acquire()
        try:
            if self._state in _DONE:
                return
            self._user_thread = None
            self._result = result
            self._exception = exception
            self._state = CANCELLED_AND_NOTIFIED if cancelled else FINISHED
            for waiter in self._waiters:
                if cancelled:
                    waiter.add_cancelled(self)
                elif exception is not None:
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)
            if condition._waiters:
                condition.notify_all()
        finally:
            condition.release()
        self._invoke_callbacks()  # type: ignore[attr-defined]
