"""What a program may say about its own code: this blocks, this must not be switched, this belongs to its thread."""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
from asyncio import events
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..detector import tool
from ..detector.calls import Call, site_of
from ..detector.catalogue import ABSENT, Verdict, catalogue, find, is_c, lacks, maybe, name_of
from ..following.tasks import TASK_OF_THREAD
from ..following.thread_locals import IN_DICTIONARY
from ..observing.log import say, told
from ..observing.upcalls import Detection
from ..platform.threads import os_ident
from ..protocol.lwp import LWP, LwpState, Region, current

if TYPE_CHECKING:
    from .affinity import Affinity

_NO_LOOP = ("no running event loop",)
"""What asyncio says to who wants the loop."""

_NO_AWAIT = "The body of `with hybridexec.blocking():` runs without the event loop: await before it or after it."

_swap_current_task: Callable[[Any, Any], Any] = getattr(asyncio.tasks, "_swap_current_task")  # noqa: B009


@dataclass(frozen=True, slots=True)
class LwpInfo:
    """An LWP, as it was when :func:`current_lwp` was called.

    Attributes:
        name: the name of its thread.
        ident: the identity of its OS thread.
        state: what it does.
        is_home: whether it is the thread that runs the loop's ``run_forever``.
    """

    name: str
    ident: int
    state: LwpState
    is_home: bool


def current_lwp() -> LwpInfo | None:
    """The LWP that runs the calling code.  Any thread may ask.

    Returns:
        What it is; None on a thread that carries no hybridexec loop.
    """
    lwp = current.get(os_ident())
    return None if lwp is None else LwpInfo(lwp.name, lwp.ident, lwp.state, lwp is lwp.carrying.home)


class blocking:
    """A context manager that says: what follows blocks.

    The loop moves to a spare LWP at once, and the body runs without it: it may block and compute, but it must not
    touch the loop or anything of its tasks, and there is no running loop in it.  At the end it waits for its turn.
    Go's runtime has the pair as ``entersyscall`` and ``exitsyscall``, Tokio as ``block_in_place``.

    An ``await`` in the body ends it: the loop's exception handler is told, and the step goes on with the loop.
    Outside of a hybridexec loop, and inside of another ``blocking()``, it does nothing.  In mode "observe" the block
    is reported and the loop stays.

    Raises:
        KeyboardInterrupt: Ctrl-C while the step waited for its turn.
    """

    def __init__(self) -> None:
        self._entries: list[_Entry] = []

    def __enter__(self) -> Self:
        lwp = current.get(os_ident())
        if lwp is None or lwp.handle is None or events._get_running_loop() is None or lwp.region:
            self._entries.append(_Entry(lwp, None, None))
            return self
        frame = sys._getframe(1)
        call = Call(site_of(frame.f_code, frame.f_lasti), "hybridexec.blocking", None, Detection.EXPLICIT)
        loop = events._get_running_loop()
        entry = _Entry(lwp, call, loop)
        # What an await has ended has left its entry behind.  In place: other threads may be leaving their regions.
        for stale in [other for other in self._entries if other.lwp is lwp and other.step is not lwp.handle]:
            self._entries.remove(stale)
        self._entries.append(entry)
        try:
            away = lwp.watch.reactions.enter(lwp, call)
        except BaseException:
            self._entries.remove(entry)
            raise
        if away:
            if TASK_OF_THREAD:
                entry.task = _swap_current_task(loop, None)
            if IN_DICTIONARY:
                lwp.luggage.wardrobe.part()
            events._set_running_loop(None)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        lwp = current.get(os_ident())
        step = None if lwp is None else lwp.handle
        for entry in reversed(self._entries):
            if entry.lwp is lwp and entry.step is step:
                break
        else:
            return  # there was an await in it, and the step that it belonged to has ended
        self._entries.remove(entry)
        if lwp is None or entry.call is None or lwp.watch.call is not entry.call:
            return
        if lwp.region is Region.AWAY:
            events._set_running_loop(entry.loop)
            if TASK_OF_THREAD:
                _swap_current_task(entry.loop, entry.task)
        lwp.region = None
        if isinstance(exc, RuntimeError) and exc.args == _NO_LOOP:
            exc.add_note(_NO_AWAIT)
        lwp.watch.reactions.over(lwp, entry.call, raised=exc is not None)

    def __call__(self, function: object) -> None:
        """Refuse to decorate: what it is around has to be a body that does not await."""
        raise TypeError(
            "hybridexec.blocking() is no decorator: put `with hybridexec.blocking():` around the call that blocks"
        )


class _Entry:
    """One entry of a ``blocking()`` region: the object may be entered again, and by several tasks at a time."""

    __slots__ = ("call", "loop", "lwp", "step", "task")

    def __init__(self, lwp: LWP | None, call: Call | None, loop: Any) -> None:
        self.lwp = lwp
        self.step = None if lwp is None else lwp.handle
        self.call = call  # None: the entry does nothing
        self.loop = loop
        self.task: Any = None


class pinned:
    """A context manager that says: no handoff and no preemption inside.

    For code that must not be switched in the middle, though it may block: the loop waits, as asyncio's does.  It holds
    for the task that enters it, also across its awaits.  Outside of a hybridexec loop it does nothing.

    One object may be entered several times, and by several tasks and threads at a time; leaving it in another task than
    the one that entered leaves that one's.  Nothing is raised.  The idea is that of a critical section without
    preemption, as of the Linux kernel's ``preempt_disable``.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[LWP | None, asyncio.Task[Any] | None]] = []

    def __enter__(self) -> Self:
        lwp = _carrier()
        task = _task(lwp)
        self._entries.append((lwp, task))
        if lwp is not None:
            lwp.watch.reactions.pins.pin(lwp, task)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        mine = _task(current.get(os_ident()))
        lwp, task = _take(self._entries, lambda entry: entry[1] is mine)
        if lwp is not None:
            lwp.watch.reactions.pins.unpin(current.get(os_ident()), task)


class bound:
    """A context manager that binds the task to the LWP it is on: every step inside is taken on that OS thread.

    For what belongs to a thread: libraries with a context per thread.  Around the whole body of a
    task's coroutine it binds the task for life.  While that LWP is blocked, the task waits, as on asyncio; everybody
    else goes on.  Solaris called such a thread *bound* (``PTHREAD_SCOPE_SYSTEM``); Go has ``runtime.LockOSThread``.
    Outside of a task of a hybridexec loop it does nothing.

    One object may be entered several times, and by several tasks and threads at a time.  Nothing is raised.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[Affinity | None, asyncio.Task[Any] | None, object]] = []

    def __enter__(self) -> Self:
        lwp = _carrier()
        task = _task(lwp)
        affinity = lwp.watch.reactions.affinity if lwp is not None and task is not None else None
        reason = object()  # of this entry: the object may be entered again
        self._entries.append((affinity, task, reason))
        if affinity is not None and lwp is not None and task is not None:
            affinity.bind(lwp, task, reason, lambda: True)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        mine = _task(current.get(os_ident()))
        affinity, task, reason = _take(self._entries, lambda entry: entry[1] is mine)
        if affinity is not None and task is not None:
            affinity.unbind(task, reason)


def _carrier() -> LWP | None:
    """The LWP that runs the calling code, if it has the loop.  A finalizer or a signal handler may run on one that is
    without it, or is in the middle of the protocol: asyncio's current task may be somebody else's then."""
    lwp = current.get(os_ident())
    return None if lwp is None or lwp.carrying.holder is not lwp or lwp.carrying.inside() else lwp


def _task(lwp: LWP | None) -> asyncio.Task[Any] | None:
    """The user thread whose step the calling code is part of."""
    return None if lwp is None or events._get_running_loop() is None else asyncio.current_task()


def _take[T](entries: list[T], ours: Callable[[T], bool]) -> T:
    """The entry of a region object that ends now: the last one of the same task.  If there is none, a coroutine that
    was not awaited to its end is torn down by somebody else."""
    entry = next((entry for entry in reversed(entries) if ours(entry)), entries[-1])
    entries.remove(entry)
    return entry


def register_blocking(
    callable: Callable[..., Any] | str, *, will_block: Callable[[Any], bool | None] | None = None
) -> None:
    """Add a C callable to the catalogue of those that can block.

    Args:
        callable: a function or a method of a type implemented in C, or its dotted name (``"package.module.function"``,
            ``"package.module.Type.method"``), which may be given before its module is imported.
        will_block: called with the first argument of the call (``self`` for a method, None if there is none): True if
            it will block (the loop is handed off at once), False if not, None if it cannot tell.  By default nothing
            is known beforehand: the call is marked, and the loop is retaken when it lasts for the threshold.  It runs
            in the middle of the step, before the call, and must be quick.  If it raises, that is logged, and it is not
            asked again: whether a call blocks is unknown from then on.

    What the catalogue said of the callable is replaced: ``time.sleep``, registered without ``will_block``, is only
    marked.  Python code that the callable calls back waits for the loop.  The catalogue's events are those of PEP 669
    (``sys.monitoring``), which tells of calls of C code.

    Raises:
        TypeError: ``callable`` is implemented in Python, or is neither callable nor a name; ``will_block`` is not
            callable.
        ValueError: ``callable`` is a string that is no dotted name, or names nothing in a module that is imported
            already.  (If the module is imported later, the log says so.)

    Any thread may call it.
    """
    if will_block is not None and not hasattr(will_block, "__call__"):  # noqa: B004  (the builtin's name is taken here)
        raise TypeError(f"will_block={told(will_block)}: allowed are None and a callable of one argument")
    if isinstance(callable, str):
        parts = callable.split(".")
        if len(parts) < 2 or not all(part.isidentifier() for part in parts):
            raise ValueError(f"callable={told(callable)}: allowed is a dotted name, as 'package.module.function'")
        found = find(callable)
        if found is None and lacks(callable):
            raise ValueError(f"callable={callable!r}: it {ABSENT}")
        if found is None:
            judge = maybe if will_block is None else _Judge(callable, will_block)
            catalogue.add_name(callable, judge, calls_back=True, refused=functools.partial(_refused, callable))
            return
        callable = found
    if not hasattr(callable, "__call__"):  # noqa: B004
        raise TypeError(f"callable={told(callable)}: allowed are a callable implemented in C and a dotted name")
    if not is_c(callable):
        raise TypeError(
            f"callable={told(callable)}: it is implemented in Python, which does not block by itself; register the C "
            "callable that it calls at its bottom, or put `with hybridexec.blocking():` around the call"
        )
    judge = maybe if will_block is None else _Judge(name_of(callable), will_block)
    catalogue.add(callable, judge, calls_back=True)
    tool.refresh()


def _refused(name: str, why: str) -> None:
    """A name that was registered before its module was imported is none."""
    say(logging.WARNING, "register_blocking(%r): it %s; it is not in the catalogue", name, why)


class _Judge:
    """What ``will_block`` says of a call, for the catalogue.  It is asked no more once it has raised.

    Args:
        name: of the callable that was registered.
        will_block: the program's.
    """

    __slots__ = ("_name", "_will_block")

    def __init__(self, name: str, will_block: Callable[[Any], bool | None]) -> None:
        self._name = name
        self._will_block: Callable[[Any], bool | None] | None = will_block

    def __call__(self, argument: Any, count: int) -> Verdict:
        ask = self._will_block
        if ask is None:
            return Verdict.MAYBE
        argument = None if argument is sys.monitoring.MISSING else argument
        try:
            answer = ask(argument)
            if answer is None:
                return Verdict.MAYBE
            return Verdict.SURE if answer else Verdict.NEVER
        except Exception as exc:
            self._failed(argument, exc)
            return Verdict.MAYBE

    def _failed(self, argument: object, exc: Exception) -> None:
        ask, self._will_block = self._will_block, None
        if ask is None:
            return  # another thread was faster, and has said it
        last = exc.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        say(
            logging.ERROR,
            "will_block of %s raised %s for %s at %s:%s: from now on it counts as unknown whether a call blocks",
            self._name,
            told(exc),
            told(argument),
            "?" if last is None else last.tb_frame.f_code.co_filename,
            0 if last is None else last.tb_lineno,
        )
