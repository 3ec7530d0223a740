"""Awaiting: synchronous code in a step waits for an awaitable, while the loop continues (``block_on``).

The awaitable is *driven*, not wrapped in a task: it runs as a part of the caller's own task, in the caller's own
context, as if the synchronous code were a coroutine that awaits it.  What is ready at once costs no switch.  If it has
to wait, the step is *suspended* (``protocol/suspending.py``), and a ``_Driver`` resumes the awaitable in steps of the
loop.  Once it is done, the step is the next to have the loop.

Three things of asyncio's belong to whoever runs in a task's step, and have to be the driver's meanwhile:

* *The context.*  Nobody can enter a context that is entered.  So the step leaves its own before it is suspended, and
  enters it again after that (``platform/contexts.py``).
* *The current task.*  Each step of the driver sets it (``_swap_current_task``), as each step of the task does.
* *Cancellation.*  A task that is cancelled in the middle of a step remembers that for its next ``await``, which may
  never come.  So the task's ``cancel`` is the driver's meanwhile, an attribute of the instance, and ``cancelling`` and
  ``uncancel`` count what the task itself does not know of (``_Cancellations``).

Why not a greenlet: it ties the task to its thread.  Why not a loop on top of the step's stack, as nest_asyncio has one:
only the innermost of those can continue.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import math
import sys
import weakref
from asyncio import events, futures
from asyncio.tasks import _swap_current_task  # type: ignore[attr-defined]
from collections.abc import Awaitable, Callable, Coroutine
from types import CoroutineType
from typing import Any

from ..detector.calls import Call, Site
from ..detector.stack import FRAMES, reserve
from ..following.tasks import TASKS
from ..observing.log import told
from ..observing.upcalls import Detection
from ..platform import contexts
from ..platform.clock import monotonic
from ..platform.threads import os_ident
from ..protocol.lwp import IN_POLL, LWP, Region, current
from ..protocol.suspending import hand, suspend

STOP_PATIENCE = 0.5
"""Seconds for which a loop that is to stop waits for what a step of its home awaits, before it cancels that."""

CLOSE_PAUSE = 0.01
"""Seconds between two looks whether a context is free, while the loop is closed."""

LEAST_BOUND = 256
"""At least so many steps can wait at a time, each on a thread.  ``max_lwps`` counts calls that block, which return by
themselves: steps that wait for one another must not use it up."""

_FORGETS = sys.version_info >= (3, 13)
"""Whether ``Task.uncancel`` takes back a cancellation that has not come up yet."""

_NOWHERE = (
    "block_on() waits in a step of a hybridexec loop, and there is none on this thread: use hybridexec.run(), or "
    "asyncio.run_coroutine_threadsafe(...).result() for a loop that runs on another thread"
)
_NOT_OURS = (
    "block_on() waits in a step of a hybridexec loop: the one that runs here is another one, which cannot move; use "
    "hybridexec.run() or hybridexec.new_event_loop()"
)
_AWAY = "block_on() in `with hybridexec.blocking():`, whose body runs without the loop"
_IN_PROTOCOL = "block_on() in the middle of the protocol: a finalizer has called it"
_IN_POLL = "block_on() would wait in a protocol's method on uvloop, and nothing else can run there"
_IN_HANDLER = "block_on() would wait in a signal handler that interrupts the loop"
_STAYS = 'block_on() would wait where the loop must not move: pinned(), mode "observe", a greenlet or a debugger'
_BOUND = "block_on() would wait in a task that is bound to its thread, and what it awaits runs on others"
_CLOSED = "block_on() would wait, and the event loop is closed"
_TOO_MANY = "block_on() would wait, and %d steps do so already (max_lwps, and 256 at least)"
_NO_THREAD = "block_on() would wait, and the system has no thread to carry the loop meanwhile"


def block_on[T](awaitable: Awaitable[T], *, timeout: float | None = None) -> T:
    """Wait for an awaitable in synchronous code, while the event loop continues.

    For synchronous code that the program's coroutines call, and that cannot ``await``: a callback of a library,
    ``__getattr__``, the synchronous face of an asynchronous SDK.  Where ``await`` is possible, it is cheaper.

    The awaitable runs in the caller's task and context, and is cancelled with the task.  What is ready at once returns
    without a switch.  It works in a step of a hybridexec loop only, and on the thread of that step.  The name is that
    of Rust's ``futures::executor::block_on``, which stops the loop of the calling thread; this does not.

    Args:
        awaitable: what to wait for: anything that ``await`` takes.
        timeout: seconds after which the awaitable is cancelled; at once if they are over (0 or less); None: never.

    Returns:
        What the awaitable returns.

    Raises:
        TypeError: a wrong argument.
        ValueError: a timeout that is not a number.
        TimeoutError: the time is up, and the awaitable has ended for that.
        asyncio.CancelledError: the task was cancelled, or the loop is stopped or closed.
        RuntimeError: there is no step of a hybridexec loop here; or it would have to wait where the loop cannot move
            (``pinned()``, ``bound()``, mode "observe", a protocol's method on uvloop), or as many as ``max_lwps``, and
            256 at least, wait already.
        BaseException: what the awaitable raises.
    """
    coro: Any = awaitable
    is_coroutine = type(awaitable) is CoroutineType
    if not is_coroutine and not inspect.isawaitable(awaitable):
        raise TypeError(f"awaitable={told(awaitable)}: allowed is what `await` takes")
    try:
        if timeout is not None:
            _check_timeout(timeout)
            timeout = None if timeout == math.inf else timeout
        lwp, loop = _step()
    except BaseException:
        if is_coroutine:
            coro.close()
        raise
    if timeout is not None:
        coro = _await_within(awaitable, timeout)
        if asyncio.current_task() is None:  # asyncio.timeout() cancels a task
            coro = _await(asyncio.ensure_future(coro))
    elif not is_coroutine:
        if asyncio.isfuture(awaitable) and awaitable.done():
            return awaitable.result()  # type: ignore[no-any-return]
        coro = _await(awaitable)
    reserve(FRAMES)
    try:
        yielded = drive(coro.send, None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    refused = refusal(lwp, loop)
    if refused is not None:
        return _break_off(coro, RuntimeError(refused))  # type: ignore[no-any-return]
    return loop._awaiting.wait(lwp, coro, yielded)  # type: ignore[no-any-return]


def drive(resume: Callable[[Any], Any], value: Any) -> Any:
    """Resume a coroutine.  Its frame is the last one that is not the program's: as of what runs a step (``Turns``)."""
    return resume(value)


def _check_timeout(timeout: object) -> None:
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout={told(timeout)}: allowed are None and seconds")
    if math.isnan(timeout):
        raise ValueError("timeout=nan: allowed are None and seconds")


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def _await_within(awaitable: Awaitable[Any], timeout: float) -> Any:
    async with asyncio.timeout(timeout):
        return await awaitable


def _step() -> tuple[LWP, Any]:
    """The LWP whose step calls, and its loop.

    Raises:
        RuntimeError: there is none.
    """
    lwp: LWP | None = current.get(os_ident())
    loop: Any = events._get_running_loop()
    if loop is None:
        raise RuntimeError(_NOWHERE if lwp is None or lwp.region is not Region.AWAY else _AWAY)
    if lwp is None or lwp.handle is None or lwp.carrying is not getattr(loop, "_carrying", None):
        raise RuntimeError(_NOT_OURS)
    carrying: Any = lwp.carrying
    if lwp.region is Region.OWN or carrying.inside() or carrying.holder is not lwp:
        raise RuntimeError(_IN_PROTOCOL)
    return lwp, loop


def step_that_may_wait() -> LWP | None:
    """The LWP whose step calls, if ``block_on`` may wait in it."""
    try:
        lwp, loop = _step()
    except RuntimeError:
        return None
    return lwp if refusal(lwp, loop) is None else None


def refusal(lwp: LWP, loop: Any) -> str | None:
    """Why a step must not wait for what another one does; None if it may."""
    carrying: Any = lwp.carrying
    reactions: Any = loop._reactions
    if lwp.handle is IN_POLL:
        return _IN_POLL
    if lwp is carrying.home and carrying.handler is not None and carrying.handler.relied:
        return _IN_HANDLER
    if asyncio.current_task() in reactions.affinity.bound:
        return _BOUND
    if not reactions.may_suspend(lwp):
        return _STAYS
    if carrying.home is None:
        return _CLOSED
    most: int = max(carrying.max_lwps, LEAST_BOUND)
    return _TOO_MANY % most if len(carrying.awaiting) >= most else None


def _break_off(coro: Coroutine[Any, Any, Any], exc: BaseException) -> Any:
    """Have a coroutine end by an exception; what it returns if it does not give in."""
    try:
        coro.throw(exc)
    except StopIteration as stop:
        return stop.value
    coro.close()  # it waits once more
    raise exc


class Awaiting:
    """The steps of one loop that wait in ``block_on``.  Its steps change it.

    Args:
        loop: the loop, or a weak reference's proxy of it.
        carrying: who carries it.
    """

    def __init__(self, loop: Any, carrying: Any) -> None:
        self._loop = loop
        self._carrying = carrying
        self._drivers: list[_Driver] = []  # those of one step are in it from the outermost to the innermost
        self._stopper: asyncio.TimerHandle | None = None

    def wait(self, lwp: LWP, coro: Coroutine[Any, Any, Any], yielded: Any) -> Any:
        """Have the LWP's step wait until a coroutine has ended, which has begun and waits for something."""
        task = asyncio.current_task()
        driver = _Driver(self._carrying, lwp, task, coro)
        frame = sys._getframe(2)
        region, outer = lwp.region, lwp.watch.call
        lwp.region = Region.OWN  # what is called here is no part of the step
        call = Call(Site(frame.f_code, frame.f_lasti), "hybridexec.block_on", None, Detection.EXPLICIT)
        call.outer, lwp.watch.call = outer, call  # for whoever asks what the step is blocked in
        self._drivers.append(driver)
        outer_driver = getattr(getattr(lwp.handle, "_callback", None), "__self__", None)
        if isinstance(outer_driver, _Driver):
            outer_driver.inner = driver
        context = _leave_context(lwp, task)
        try:
            driver.context = context or contextvars.copy_context()
            with _Cancellations.of(task).given_to(driver):
                driver.expect(yielded)
                if self._loop._stopping:
                    self.stopping()
                self._suspend(lwp, driver)
        finally:
            while context is not None and not contexts.enter(context):
                self._await_context(lwp, context)
            self._drivers.remove(driver)
            if isinstance(outer_driver, _Driver):
                outer_driver.inner = None
            lwp.watch.call = outer
            lwp.region = region
        lwp.watch.began = monotonic()
        return driver.result()

    def _suspend(self, lwp: LWP, driver: _Driver) -> None:
        """Wait until the driver is done, or nobody drives it any more."""
        carrying, raised = self._carrying, None
        try:
            while not driver.done:
                if not suspend(carrying, lwp, driver.is_over):
                    driver.give_up(RuntimeError(_NO_THREAD))
                elif driver.abandoned and not driver.done:
                    driver.give_up(asyncio.CancelledError("the event loop is closed"))
                elif lwp.interrupt is not None:
                    raised, lwp.interrupt = lwp.interrupt, None
                    driver.cancel(None)
        except BaseException:
            carrying.hold_again(lwp)
            raise
        if raised is not None:
            lwp.meant = id(raised)
            raise raised

    def _await_context(self, lwp: LWP, context: contextvars.Context) -> None:
        """Somebody else's step is in the step's context, without the loop: wait until it has left it."""
        carrying, left = self._carrying, list[bool]()

        def tell() -> None:
            left.append(True)
            hand(carrying, lwp)

        if carrying.home is None:  # the loop is being closed, and runs no steps: look again and again
            suspend(carrying, lwp, lambda: True)
            lwp.sleep(CLOSE_PAUSE)
            return
        self._loop.call_soon(tell, context=context)  # deferred until then
        while not left and carrying.home is not None:
            if not suspend(carrying, lwp, lambda: bool(left) or carrying.home is None):
                raise RuntimeError(_NO_THREAD)

    # ---------------------------------------------------------------- the loop ends

    def stopping(self, patience: float = STOP_PATIENCE) -> None:
        """The loop is to stop, and the home has to do that: see that its step does not wait for ever.

        Args:
            patience: seconds after which what the step awaits is cancelled.
        """
        if self._drivers and self._stopper is None:
            self._stopper = self._loop.call_later(patience, self._let_stop)

    def _let_stop(self) -> None:
        self._stopper = None
        home = self._carrying.home
        if self._loop._stopping:
            for driver in reversed(self._drivers):
                if driver.lwp is home and not driver.done:
                    driver.cancel(None)
                    self.stopping()  # it may wait once more
                    break

    def abandon(self) -> None:
        """The loop is being closed: nothing that anybody awaits will come."""
        for driver in self._drivers:
            driver.abandoned = True
            hand(self._carrying, driver.lwp)

    def loosen(self, loop: Any) -> None:
        """The loop is closed: refer to it by this from now on."""
        self._loop = loop


def _leave_context(lwp: LWP, task: Any) -> contextvars.Context | None:
    """Leave the step's context.  Returns it; None if the step is in another one, which cannot be had."""
    of_task = task.get_context() if isinstance(task, TASKS) else None  # an eager task begins in another's step
    for context in (of_task, getattr(lwp.handle, "_context", None)):
        if isinstance(context, contextvars.Context) and contexts.leave(context):
            return context
    return None


class _Driver:
    """Drives a coroutine for a step that waits for its end: as the step's task, and in its context.

    What it expects of a coroutine, and does about it, is what ``asyncio.Task`` does.

    Attributes:
        context: the step's, or a copy of it.
        user_task: whose step it drives for.
        done: whether the coroutine has ended.
        abandoned: whether nobody drives it any more.
    """

    context: contextvars.Context
    drives = True
    """To ``reactions/affinity.py``: its steps are the task's."""

    def __init__(self, carrying: Any, lwp: LWP, task: Any, coro: Coroutine[Any, Any, Any]) -> None:
        self.lwp = lwp
        self.user_task = task
        self.done = self.abandoned = False
        self.inner: _Driver | None = None  # that of a step of this one, in which the coroutine waits
        self._runs = False  # its coroutine is executed, maybe by another LWP, which may block
        self._carrying = carrying
        self._loop: Any = events._get_running_loop()
        self._coro = coro
        self._future: Any = None  # what it waits for
        self._next: asyncio.Handle | None = None  # its next step, if it waits for nothing
        self._cancelled: tuple[Any] | None = None  # with its message: to come up in the next step
        self._result: Any = None
        self._error: BaseException | None = None

    def is_over(self) -> bool:
        """Whether the step need not wait any longer."""
        return self.done or (self.abandoned and not self._runs)

    def expect(self, yielded: Any) -> None:
        """Continue when what the coroutine has yielded is done."""
        error = None
        if yielded is self.user_task and yielded is not None:
            error = "block_on() awaits the task that it is called in"
        elif getattr(yielded, "_asyncio_future_blocking", None):
            if futures._get_loop(yielded) is self._loop:  # type: ignore[attr-defined]
                yielded._asyncio_future_blocking = False
                self._future = yielded
                yielded.add_done_callback(self._wakeup, context=self.context)
                if self._cancelled is not None and yielded.cancel(*self._cancelled):
                    self._cancelled = None
                return
            error = f"block_on() got {told(yielded)} that is attached to a different loop"
        elif yielded is not None:
            error = f"block_on() got a bad yield: {told(yielded)}"
        self._go_on(None if error is None else RuntimeError(error))

    def _go_on(self, exc: BaseException | None) -> None:
        self._next = self._loop.call_soon(self._step, exc, context=self.context)

    def _wakeup(self, future: Any) -> None:
        self._future = None
        try:
            future.result()
        except BaseException as exc:
            self._step(exc)
        else:
            self._step(None)

    def _step(self, exc: BaseException | None) -> None:
        if self.done:  # nobody drives it any more
            return
        self._next = None
        if self._cancelled is not None:
            (message,), self._cancelled = self._cancelled, None
            if not isinstance(exc, asyncio.CancelledError):
                exc = asyncio.CancelledError() if message is None else asyncio.CancelledError(message)
        try:
            yielded = self._run(self._coro.send if exc is None else self._coro.throw, exc)
        except StopIteration as stop:
            self._ends(stop.value, None)
        except BaseException as error:
            self._ends(None, error)
        else:
            self.expect(yielded)
            if self.abandoned:  # meanwhile
                hand(self._carrying, self.lwp)

    def _run(self, resume: Callable[[Any], Any], value: Any) -> Any:
        """Resume the coroutine, whose task is the current one meanwhile."""
        task = self.user_task
        self._runs = True
        try:
            if task is None:
                return drive(resume, value)
            former = _swap_current_task(self._loop, task)
            try:
                return drive(resume, value)
            finally:
                _swap_current_task(self._loop, former)
        finally:
            self._runs = False

    def _ends(self, result: Any, error: BaseException | None) -> None:
        self._result, self._error, self.done = result, error, True
        hand(self._carrying, self.lwp)

    def cancel(self, message: Any) -> None:
        """Have CancelledError come up in the coroutine, or in what a step of it waits for."""
        if self.inner is not None:
            self.inner.cancel(message)
        elif self._future is None or not self._future.cancel(message):
            self._cancelled = (message,)

    def take_cancellation(self) -> tuple[Any] | None:
        """A cancellation that has not come up yet is forgotten.  Returns its message."""
        cancelled, self._cancelled = self._cancelled, None
        return cancelled

    def give_up(self, exc: BaseException) -> None:
        """Nothing that the coroutine awaits will come: it ends by an exception, in the step that waits for it."""
        if self._future is not None:
            self._future.remove_done_callback(self._wakeup)
        if self._next is not None:
            self._next.cancel()
        region, self.lwp.region = self.lwp.region, None  # the coroutine's code is the program's
        try:
            result = self.context.run(self._run, functools.partial(_break_off, self._coro), exc)
        except BaseException as error:
            self._ends(None, error)
        else:
            self._ends(result, None)
        finally:
            self.lwp.region = region

    def result(self) -> Any:
        """What the coroutine has returned.

        Raises:
            BaseException: what it has raised.
        """
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error


class _Cancellations:
    """Cancellations of one task that have come up in what its steps have waited for, and not in the task.

    A task of asyncio's counts who has asked for its end, and before 3.13 nothing lets it forget that it has to raise
    that.  So it is not told: three attributes of the instance hide the methods of its class, until nothing is left to
    be counted.
    """

    def __init__(self, task: Any) -> None:
        self._task = weakref.ref(task)
        self._count = 0
        self._drivers: list[_Driver] = []  # from the outermost to the innermost

    @classmethod
    def of(cls, task: Any) -> _Cancellations | _Uncancellable:
        """Those of a task, or a stand-in if there is no task that can be cancelled."""
        if not isinstance(task, TASKS):
            return _Uncancellable()
        known = _cancellations.get(task)
        if known is None:
            known = _cancellations[task] = cls(task)
        return known

    def given_to(self, driver: _Driver) -> _Cancellations:
        """As a context manager: what cancels the task is the driver's to deal with."""
        self._drivers.append(driver)
        return self

    def __enter__(self) -> None:
        task: Any = self._task()
        if len(self._drivers) == 1:
            task.cancel, task.cancelling, task.uncancel = self.cancel, self.cancelling, self.uncancel
        if task._must_cancel:  # before it waited, somebody has cancelled it
            self._take_over(task)

    def __exit__(self, *exc: object) -> None:
        driver = self._drivers.pop()
        left = driver.take_cancellation()  # too late for its coroutine
        task: Any = self._task()
        if self._drivers:
            if left is not None:
                self._drivers[-1].cancel(*left)
            return
        del task.cancel
        if left is not None:
            self._count -= 1
            type(task).cancel(task, *left)
        self._tidy(task)

    def _take_over(self, task: Any) -> None:
        """What is to come up in the task comes up in the driver's coroutine instead."""
        if not _FORGETS:
            return  # it comes up at the task's next await
        message, pending = task._cancel_message, type(task).cancelling(task)
        for _ in range(pending):
            type(task).uncancel(task)
        self._count += pending
        self._drivers[-1].cancel(message)

    def _tidy(self, task: Any) -> None:
        if not self._drivers and not self._count:
            del task.cancelling, task.uncancel
            _cancellations.pop(task, None)

    def cancel(self, msg: Any = None) -> bool:
        """As ``Task.cancel``."""
        self._count += 1
        self._drivers[-1].cancel(msg)
        return True

    def cancelling(self) -> int:
        """As ``Task.cancelling``."""
        task: Any = self._task()
        return self._count + int(type(task).cancelling(task))

    def uncancel(self) -> int:
        """As ``Task.uncancel``."""
        task: Any = self._task()
        if not self._count:
            return int(type(task).uncancel(task))
        self._count -= 1
        left = self.cancelling()
        if not left and self._drivers and _FORGETS:
            self._drivers[-1].take_cancellation()
        self._tidy(task)
        return left


class _Uncancellable:
    """Of a step that is no task's."""

    def given_to(self, driver: _Driver) -> _Uncancellable:
        """As ``_Cancellations``."""
        return self

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, *exc: object) -> None:
        """Nothing to do."""


_cancellations: weakref.WeakKeyDictionary[Any, _Cancellations] = weakref.WeakKeyDictionary()
