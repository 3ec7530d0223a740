"""User threads: what an executor schedules.

A user thread is a call: of a plain callable, which is one step, or of a coroutine function, which is as many as it
awaits.  Inside, it goes through these stages, all changed under the lock of its executor (``crew.py``)::

        QUEUED ------> CALLING ------> DRIVING ------> DONE
           |              |                              ^
           +--------------+------------------------------+

* **QUEUED**: it belongs to a place (a loop, or an LWP of its own) and has not taken its first step.  It can be
  cancelled without a trace, and moved to another loop.
* **CALLING**: its callable is being called.  That cannot be cancelled.  If it returns no coroutine, that was all.
* **DRIVING**: a task of its loop drives the coroutine.  To cancel it is to cancel the task.
* **DONE**: its future has, or is about to have, what came of it.

The first step of a coroutine is taken at once, in the step that makes its task (an *eager* task).  Else a user thread
that has a task and no step yet would sit in the ready queue of a busy loop, where it could not be moved any more.

What a program sees is :class:`UserThreadState`, which is not kept but found out when somebody asks (``listing.py``): a
step that blocks has other things to do than to keep books.

Races that are possible, and why they are safe:

* *Cancelled while it starts.*  Both need the stage QUEUED, under the lock: one of them finds another stage.
* *Started twice.*  One that was moved is still in the ready queue of its old loop.  That loop asks whether it is still
  its place, under the lock.
* *Cancelled while its task is being made.*  The task makes itself known before its first step
  (:class:`UserThreadTask`), and whoever cancels has the loop cancel it, which is after that step.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
from collections.abc import Callable, Coroutine, Generator
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Protocol

from ..observing.upcalls import CallSite
from ..platform.clock import monotonic
from . import listing
from .calling import call, unwrapped
from .future import UserThreadFuture
from .states import UserThreadState
from .waiting import outcome, settled

if TYPE_CHECKING:
    from .crew import Crew


class Stage(enum.Enum):
    """How far a user thread has come.  Changes only under the lock of its executor."""

    QUEUED = "queued"
    CALLING = "calling"
    DRIVING = "driving"
    DONE = "done"


class Place(Protocol):
    """Where a user thread takes its steps: a loop that it shares, or an LWP of its own."""

    @property
    def name(self) -> str:
        """The name of its home thread."""

    @property
    def plain_loop(self) -> asyncio.AbstractEventLoop | None:
        """Its event loop, if it has one and it does not move."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Its event loop.  It is asked for by a step that runs there."""

    def drive(self, user_thread: UserThread[Any], coroutine: Coroutine[Any, Any, Any]) -> None:
        """Drive the coroutine of a user thread that has begun here."""

    def cancel(self, task: asyncio.Task[Any]) -> bool:
        """Have the loop cancel a task.  Any thread.  Returns whether it will."""

    def left(self, user_thread: UserThread[Any]) -> None:
        """A user thread is done.  The executor's lock is held."""


class UserThreadTask(asyncio.Task[Any]):
    """The task of a user thread, which the user thread knows of before it takes its first step."""

    __slots__ = ("user_thread",)

    def __init__(self, user_thread: UserThread[Any], coroutine: Coroutine[Any, Any, Any]) -> None:
        self.user_thread = user_thread
        user_thread.user_task = self
        super().__init__(coroutine, loop=user_thread.place.loop, name=user_thread.name, eager_start=True)


class UserThread[T]:
    """A handle of a user thread of a :class:`~hybridexec.HybridExecutor`, as :meth:`~HybridExecutor.spawn` returns it.

    ``await user_thread`` waits for its end and gives its result, in asyncio and in trio.  If whoever waits is
    cancelled, the user thread goes on: to wait for a thread is not to own it.

    The word is the one of the literature (a thread that the kernel does not know), and so are the states.  Every method
    and attribute may be used by any thread.
    """

    __slots__ = (
        "__weakref__",
        "_args",
        "_born",
        "_crew",
        "_fn",
        "_kwargs",
        "_name",
        "_serial",
        "bound",
        "context",
        "future",
        "place",
        "stage",
        "user_task",
    )

    def __init__(
        self,
        crew: Crew,
        serial: int,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None,
        bound: bool,
    ) -> None:
        self._crew = crew
        self._serial = serial
        self._fn, self._args, self._kwargs = fn, args, kwargs
        self._name = name
        self._born = monotonic()
        self.bound = bound
        self.context = contextvars.copy_context()
        self.future = UserThreadFuture(self)
        self.stage = Stage.QUEUED
        self.place: Place
        self.user_task: UserThreadTask | None = None

    def __repr__(self) -> str:
        return f"<UserThread {self.name} {self.state.value}>"

    # ---------------------------------------------------------------- for the program

    @property
    def name(self) -> str:
        """Its name: the one that it was given, or ``user-thread-N``."""
        return self._name or f"user-thread-{self._serial}"

    @property
    def state(self) -> UserThreadState:
        """What it does now."""
        return listing.look(self).state

    @property
    def lwp(self) -> str | None:
        """The name of the LWP (the OS thread) that runs its step now; None if it has no step on any."""
        return listing.look(self).lwp

    @property
    def site(self) -> CallSite | None:
        """The call that it is blocked in; None if it is not."""
        return listing.look(self).site

    @property
    def age(self) -> float:
        """Seconds since it was made."""
        return monotonic() - self._born

    def cancel(self) -> bool:
        """Cancel it: at once if it has not started, else, if it is a coroutine, as a task is cancelled.

        Returns:
            Whether it is or will be cancelled.  False if it is done, or runs a plain callable.  (A coroutine may
            refuse.)
        """
        with self._crew.lock:
            stage, task = self.stage, self.user_task
            if stage is Stage.QUEUED:
                self.stage = Stage.DONE
        if stage is Stage.QUEUED:
            self._release()
            self._crew.retire(self)
            self.future.discard()
            return True
        if stage is Stage.DRIVING and task is not None:
            return self.place.cancel(task)
        return self.future.cancelled()

    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.future.done()

    def cancelled(self) -> bool:
        """Whether it has ended because it was cancelled."""
        return self.future.cancelled()

    def result(self, timeout: float | None = None) -> T:
        """Wait for its end.  In a step of a loop this is a call that blocks, with all that follows from it.

        Args:
            timeout: seconds to wait at most; None: as long as it takes.

        Returns:
            What the callable, or the coroutine, has returned.

        Raises:
            TimeoutError: it is not done yet.
            concurrent.futures.CancelledError: it was cancelled.
            BaseException: what it has raised.
        """
        result: T = self.future.result(timeout)
        return result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for its end.

        Args:
            timeout: seconds to wait at most; None: as long as it takes.

        Returns:
            What it has raised; None if it has returned.

        Raises:
            TimeoutError: it is not done yet.
            concurrent.futures.CancelledError: it was cancelled.
        """
        return self.future.exception(timeout)

    def __await__(self) -> Generator[Any, Any, T]:
        return self._join().__await__()

    async def _join(self) -> T:
        await settled(self.future)
        result: T = outcome(self.future)
        return result

    # ---------------------------------------------------------------- its steps, in its place

    def begin(self, place: Place) -> None:
        """Take the first step.  It is called as a step of the place, in the user thread's context."""
        if not self._crew.starts(self, place):
            return
        fn, args, kwargs = unwrapped(self._fn, self._args, self._kwargs)
        self._release()
        self.future.starts()
        try:
            result = call(fn, args, kwargs)
        except BaseException as exc:
            self._ended(None, exc)
            del self  # the traceback knows this frame
            return
        finally:
            del fn, args, kwargs
        if type(result) is CoroutineType or (result is not None and asyncio.iscoroutine(result)):
            place.drive(self, result)
        else:
            self._ended(result, None)

    def drive(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Drive the coroutine.  The place calls this in a step of its loop."""
        with self._crew.lock:
            self.stage = Stage.DRIVING
        try:
            task = UserThreadTask(self, coroutine)
        except (SystemExit, KeyboardInterrupt):
            # These end a loop when a task raises them.  Here they are what has become of the user thread.
            assert self.user_task is not None
            task = self.user_task
        if task.done():
            self._driven(task)
        else:
            task.add_done_callback(self._driven, context=task.get_context())

    def _driven(self, task: asyncio.Task[Any]) -> None:
        self.user_task = None
        if task.cancelled():
            self._ended(None, None, cancelled=True)
        else:
            exception = task.exception()
            self._ended(None if exception is not None else task.result(), exception)
            del exception, self

    def _ended(self, result: Any, exception: BaseException | None, *, cancelled: bool = False) -> None:
        # In this order: who has the result finds the user thread gone, and its place free for another.
        self._crew.retire(self)
        self.future.settle(result, exception, cancelled=cancelled)

    def _release(self) -> None:
        """Let go of what only the start needs."""
        self._fn, self._args, self._kwargs = call, (), {}

    def fail(self, exception: BaseException) -> None:
        """It cannot go on: its place has gone."""
        self._release()
        self._ended(None, exception)
