"""RLocks: what a coroutine owns over an await belongs to the loop, and follows whoever carries it.

CPython gives an ``RLock`` to an OS thread.  On asyncio one thread takes every step, so what a step still owns when it
ends is the loop's in all but name: whichever task runs next may release it, or enter it once more.  A loop that moves
keeps that meaning by writing into the lock who its owner is, the thread that carries the loop now:

* **When a step ends**, the RLocks that it has acquired and still owns become the loop's (``held``).  Those that it
  owned before and owns no longer cease to be that.
* **When a step leaves the loop**, what is the loop's is nobody's (``NOBODY``); **when an LWP takes the loop**, and
  before it runs anything, it is given to its thread (``follow``).  So RLocks of several tasks, wanted cross-wise, are
  as little of a deadlock as on asyncio.
* **A step that blocks keeps what it has acquired in that same step.**  On asyncio nobody could run meanwhile; so who
  wants such a lock waits, in a blocking call like any other.  A ``blocking()`` region is the step's code without the
  loop: it takes along what its task alone has of the loop's, and what it acquires is the step's when it is over.
* **``_acquire_restore``** (where a ``Condition`` goes on) gives a lock to the thread that ``_release_save`` has found,
  which may have been the carrier before an await in between.  When it returns in a step, the lock is given to the
  thread of that step.  If the lock has become the loop's meanwhile, the step leaves, and waits until it is let go.

A lock is given away under the mutex of the protocol, and only if its owner is the carrier before, which runs nothing
without the loop: so nobody is using its ownership, with the GIL and without.  A lock that others have taken meanwhile
has another owner, and is left to them.

Two gaps are known.  Before 3.14 a ``with`` statement is no event: a step that lets a lock go that was the loop's, takes
it again by ``with`` and blocks has not acquired it, as far as can be told, and does not exclude others meanwhile.  And
where ``_acquire_restore`` had to wait, the thread of the former carrier is the owner until the event of its return, for
the few instructions that takes.

Where the owner stands in an ``RLock`` is found by trial (``platform/memory.py``).  If it cannot be found, ``FOLLOW`` is
False, and ``reactions/affinity.py`` binds whose step owns one to its LWP.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import ctypes
import gc
import types
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..platform.memory import find
from ..platform.threads import os_ident

if TYPE_CHECKING:
    from ..protocol.lwp import LWP

type Task = asyncio.Task[Any]

RLOCK = type(_thread.RLock())

_WORD = ctypes.sizeof(ctypes.c_void_p)
NOBODY = 0x5A5A5A5A
"""The identity of no thread: those are aligned addresses, or small."""

_CODE = "coroutine", "generator", "async_generator", "async_generator_asend", "async_generator_athrow"
"""The types whose objects are suspended code, or lead to it."""


def _place() -> int | None:
    """How far into an ``RLock`` its owner stands; None if that is not to be found, or is not what it seems to be."""
    lock: Any = _thread.RLock()
    try:
        lock._acquire_restore((1, NOBODY))
        number = find(id(lock), RLOCK.__basicsize__ // _WORD, NOBODY)
        if number is None:
            return None
        owner = ctypes.c_size_t.from_address(id(lock) + number * _WORD)
        owner.value = os_ident()
        lock.release()
        weakref.ref(lock)
    except (AttributeError, RuntimeError, TypeError):
        return None
    return number * _WORD if owner.value == 0 and lock.acquire(blocking=False) else None


_PLACE = _place()

FOLLOW = _PLACE is not None
"""Whether RLocks can be given to another thread."""


def _owner(lock: Any) -> ctypes.c_size_t:
    """The word of a lock that says whose it is."""
    assert _PLACE is not None
    return ctypes.c_size_t.from_address(id(lock) + _PLACE)


class RLocks:
    """The RLocks that belong to one loop.  Only the loop's holder changes it.

    Attributes:
        held: the locks, each with the task that has acquired it (None: none, or several), by their identity.  None is
            kept alive by it.
    """

    def __init__(self) -> None:
        self.held: dict[int, tuple[weakref.ref[Any], weakref.ref[Task] | None]] = {}
        self._owners = {NOBODY}  # the thread that has them; and others, if an exception has broken off a change

    def noticed(self, lwp: LWP, lock: Any, task: Task | None) -> None:
        """A step of a task is about to acquire an RLock."""
        lwp.luggage.owned.append(lock)
        lwp.luggage.check_bindings = lwp.slow_exit = True
        if id(lock) in self.held:
            if lock._is_owned():
                self._enter(lock, task)
            else:
                self._drop(id(lock))  # it was let go in this very step

    def after_step(self, lwp: LWP, owned: list[Any], task: Task | None) -> None:
        """A step is over.

        Args:
            lwp: the LWP that it has run on.
            owned: what it owns of what it has acquired.
            task: whose it was.
        """
        for key, (reference, _) in self.held.copy().items():
            lock = reference()
            if lock is None or not lock._is_owned():
                self._drop(key)
        for lock in owned:
            self._owners = {lwp.ident}
            self._enter(lock, task)

    def follow(self, ident: int) -> None:
        """A thread carries the loop now, or NOBODY does: what is the loop's is given to it."""
        if self._owners == {ident}:
            return
        self._owners.add(ident)
        for key, (reference, _) in self.held.copy().items():
            lock = reference()
            if lock is not None:
                owner = _owner(lock)
                if owner.value in self._owners:
                    owner.value = ident
                else:
                    self._drop(key)
        self._owners = {ident}  # last: if anything has raised before, all is done once more

    def take_along(self, lwp: LWP, task: Task | None) -> None:
        """A step of a task goes on without the loop, in a ``blocking()`` region."""
        for key, (reference, acquirer) in self.held.copy().items():
            lock = reference()
            if lock is not None and task is not None and acquirer is not None and acquirer() is task:
                self._drop(key)
                lwp.luggage.owned.append(lock)
                lwp.luggage.check_bindings = lwp.slow_exit = True

    def retires(self, ident: int) -> None:
        """A thread is about to end; its identity may be another's after that."""
        if ident in self._owners:
            self.follow(NOBODY)

    def forked(self) -> None:
        """This process is a child: there is no other thread that could carry the loop."""
        self.held.clear()

    def _enter(self, lock: Any, task: Task | None) -> None:
        key = id(lock)
        known = self.held.get(key)
        if known is None:
            reference = weakref.ref(lock, lambda _: self._drop(key))
            self.held[key] = reference, None if task is None else weakref.ref(task)
        elif known[1] is not None and known[1]() is not task:
            self.held[key] = known[0], None

    def _drop(self, key: int) -> None:
        self.held.pop(key, None)


def noticed_in_region(lwp: LWP, lock: Any) -> None:
    """A step is about to acquire an RLock, or what it takes for one, in a ``blocking()`` region: without the loop."""
    if isinstance(lock, RLOCK):
        lwp.luggage.owned.append(lock)
        lwp.luggage.check_bindings = lwp.slow_exit = True


def restored(lwp: LWP, lock: Any) -> None:
    """``_acquire_restore`` has returned, on the LWP: whoever owned the lock before, its step does so now."""
    if FOLLOW:
        _owner(lock).value = lwp.ident


def owned(lwp: LWP, task: Task | None) -> list[Any]:
    """What a step that is over still owns of the RLocks that it has acquired, or may have; each once."""
    noticed = list(lwp.luggage.owned)
    if lwp.luggage.suspended:
        # An eager task begins in a step of another's.
        for each in {task, *lwp.luggage.suspended}:
            # One that ended in its eager step has no coroutine any more, which 3.12.1 does not stand to be asked for.
            if each is not None and not each.done():
                noticed.extend(_with_statements(each))
    return [lock for lock in {id(lock): lock for lock in noticed}.values() if lock._is_owned()]


def _with_statements(task: Task) -> Iterator[Any]:
    """The RLocks whose ``with`` statement a suspended task is in: before 3.14 such a statement is no event.

    What a statement calls at its end is on the stack of the code that is in it; and so is what that code awaits, or
    iterates over.
    """
    codes: dict[int, Any] = {0: task.get_coro()}
    fresh = list(codes.values())
    while fresh:
        for thing in gc.get_referents(fresh.pop()):
            kind = type(thing)
            if kind is types.BuiltinMethodType and isinstance(thing.__self__, RLOCK):
                yield thing.__self__
            elif kind is types.MethodType and isinstance(thing.__self__, contextlib._GeneratorContextManagerBase):
                thing = thing.__self__.gen
                kind = type(thing)
            if kind.__name__ in _CODE and id(thing) not in codes:
                codes[id(thing)] = thing
                fresh.append(thing)
