"""LWPs: the OS threads that can carry an event loop.

An LWP (*light-weight process*, Solaris' word for what a kernel schedules) is either the **home** of a loop, the
thread that called ``run_forever``, or a **spare** that the loop's pool has started.  This file says what an LWP is, and
how it sleeps and wakes.  Who carries the loop is decided in ``carrying.py``.

An LWP sleeps on a plain lock used as a binary semaphore.  A waker first sets the sleeper's state to WOKEN under the
mutex of the loop, and only then releases the lock: a sleeper whose timeout expires can tell, under the same mutex,
whether a wake-up is on its way.  A late one only makes a later sleep short.

Two pockets hold what other floors keep with a thread: ``watch`` is the detector's, ``luggage`` is what follows the
loop.  The protocol fills them (``Luggage.equip``) and does not look inside.
"""

from __future__ import annotations

import _thread
import enum
import sys
import threading
from collections.abc import Callable
from typing import Any

from .._core.fields import LwpFields
from ..platform.threads import OsThread, os_ident, os_thread


class LwpState(enum.Enum):
    """What an LWP does now.  Changes only under the mutex of its loop."""

    PARKED = "parked"
    """Asleep; ready to be woken for work."""
    WOKEN = "woken"
    """It was woken, and is on its way."""
    POLLING = "polling"
    """Waits in the loop's poll.  It holds the loop only if no other LWP could take it: there is no other, or the
    engine's poll cannot be claimed."""
    RUNNING = "running"
    """Carries the loop."""
    MARKED = "marked"
    """Carries the loop, inside a call that may block: the sampler may retake the loop."""
    BLOCKED = "blocked"
    """Inside a blocking call (or a ``blocking()`` region), without the loop."""
    RETURNING = "returning"
    """Its call has returned: asleep in the queue for the loop."""
    PREEMPTED = "preempted"
    """Its step overran the time slice: asleep in the queue of the preempted."""
    RETIRED = "retired"
    """Has ended, or is about to, and no longer touches the loop."""


WAITING = (LwpState.PARKED, LwpState.RETURNING, LwpState.PREEMPTED, LwpState.WOKEN)
"""The states of an LWP that sleeps, or was just woken."""

RELIED_ON = (*WAITING, LwpState.POLLING)
"""The states of an LWP that the others count on: it takes the loop when that is free."""


class Region(enum.Enum):
    """Why the detector ignores the code that a step is running."""

    AWAY = "away"
    """A ``blocking()`` region, without the loop."""
    HERE = "here"
    """A ``blocking()`` region whose loop stays with it (mode "observe", or pinned): the region is what is reported."""
    OWN = "own"
    """This package's own code: the protocol, and the instruments."""


# As it was when this module was imported: tools for tests (blockbuster) put a function in its place that raises in a
# thread with a running loop, and an LWP that sleeps is in one.
_acquire = _thread.LockType.acquire


class Bell:
    """A binary semaphore: a ring that nobody waits for ends the next wait.  Any thread may ring.

    It is a plain lock, so that no Python code of the standard library runs when the protocol rings.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Wake the thread that waits, or the next one that does."""
        try:
            self._lock.release()
        except RuntimeError:  # it rings already
            return

    def wait(self, timeout: float = -1) -> bool:
        """Wait for a ring, for ``timeout`` seconds; -1: forever.  Returns whether it rang."""
        return _acquire(self._lock, True, timeout)


START_PATIENCE = 1.0
"""Seconds that the end of a loop waits for a thread whose start was interrupted, and which may not exist."""


def has_started(thread: threading.Thread) -> bool:
    """Wait briefly for a thread to start; return whether it did.

    Where a signal handler has interrupted ``Thread.start()`` nobody can tell whether the thread exists.
    """
    return bool(thread._started.wait(START_PATIENCE))  # type: ignore[attr-defined]


class LWP(LwpFields):
    """One OS thread that can carry a loop.

    Args:
        carrying: who carries the loop (``carrying.py``, which builds on this file).
        name: the name of the thread.

    Attributes:
        name: the name of the thread.
        ident: the identity of the OS thread.
        state: what it does now.
        handle: the callback that its current step runs; None outside of a step.
    """

    region: Region | None
    state: LwpState

    __slots__ = (
        "_bell",
        "bound_tasks",
        "launched",
        "meant",
        "name",
        "outer",
        "thread",
    )

    def __init__(self, carrying: Any, name: str) -> None:
        self.carrying = carrying
        self.name = name
        self.ident = 0
        self.launched = False  # its thread exists, or is being started
        self.thread: threading.Thread | None = None
        self.state = LwpState.PARKED
        self.since = 0.0  # when it began to wait for the loop
        self.deadline = 0.0  # until when it polls
        self.handle = None
        self.callbacks = 0  # of the detector's that are compiled, and that its thread is in
        self.region = None  # why the detector ignores what its step runs
        self.slow_exit = False  # take the slow path when its step ends
        self.lost_loop = False  # its step has been without the loop
        self.interrupt = None  # raised by a signal handler meanwhile, to be raised in its step
        self.meant = 0  # the identity of an exception that the protocol raises for its step to get
        self.bound_steps = []  # steps of bound user threads, which only this LWP may run
        self.bound_tasks: list[Any] = []  # the user threads that are bound to it
        self.outer: LWP | None = None  # of another loop, in whose blocking() region this one is the home
        self.watch = None  # the detector's
        self.luggage = None  # what follows the loop
        self._bell = Bell()

    def __repr__(self) -> str:
        return f"<LWP {self.name} {self.state.value}>"

    def sleep(self, timeout: float = -1) -> bool:
        """Sleep until :meth:`wake`, or for ``timeout`` seconds.

        Returns:
            Whether it was woken.

        Raises:
            BaseException: whatever a signal handler raised meanwhile (on the main thread).
        """
        return self._bell.wait(timeout)

    def wake(self) -> None:
        """Wake it.  If it does not sleep, its next sleep ends at once: every sleeper checks why it was woken."""
        self._bell.ring()

    def prepare(self, target: Callable[[LWP], None]) -> None:
        """Make its thread, which is to run ``target(self)``."""
        self.thread = OsThread(target=lambda: self._main(target), name=self.name, ended=self._ended)

    def start(self) -> None:
        """Start its thread.

        Raises:
            RuntimeError: the system has no more threads to give.
        """
        assert self.thread is not None
        self.thread.start()

    def has_ended(self) -> bool:
        """Whether its thread has started, and has ended since.  Any thread may ask."""
        return self.ident != 0 and self.thread is not None and not self.thread.is_alive()

    def adopt(self) -> None:
        """Make the calling thread this LWP's thread."""
        self.thread = os_thread()
        self._settle()

    def release(self) -> None:
        """Detach the calling thread from this LWP."""
        self.watch.release()
        unregister(self)

    def _settle(self) -> None:
        self.launched = True
        self.ident = os_ident()
        self.watch.settle(self.ident)
        self.luggage.settle(self.ident)
        register(self)

    def _main(self, target: Callable[[LWP], None]) -> None:
        try:
            self._settle()
            target(self)
        except BaseException as exc:
            self.carrying.bury(self, exc)
        finally:
            try:
                self.luggage.put_down()
            finally:
                self.release()
        self.luggage.thread_ends(self.thread)

    def _ended(self) -> None:
        """Its thread ends.  It has retired, or was buried; or even that has failed, or it has never started."""
        self.luggage.put_down()  # the next thread may have its identity
        if self.state is not LwpState.RETIRED:
            self.carrying.bury(self, sys.exception() or RuntimeError(f"the thread of {self.name} has ended"))


class StandIn:
    """Stands for a step in ``LWP.handle`` where there is none, and yet code of the program runs."""

    _callback = _args = _context = None  # what asyncio's handles have

    def __init__(self, description: str) -> None:
        self._description = description

    def __repr__(self) -> str:
        return self._description


IN_POLL = StandIn("<in the poll>")
"""While an engine polls that calls the program back from its poll (uvloop, methods of protocols).  The detector treats
what blocks there like a step; but the loop cannot move away from it."""

STEP_ENDED = StandIn("<a step that has ended>")
"""While the last reference to a step that has ended is dropped: its finalizers, and those of its arguments, may block
as a step does."""


current: dict[int, LWP] = {}
"""The LWPs of the process, by the identity of their thread.  Read without a lock: a thread looks for itself only, and
a dictionary of built-in keys is safe to read while others change it, with the GIL and without."""


def register(lwp: LWP) -> None:
    """Note that the calling thread is an LWP.  Loops nest on one thread: one may run in a blocking() of another."""
    lwp.outer = current.get(lwp.ident)
    current[lwp.ident] = lwp


def unregister(lwp: LWP) -> None:
    """Note that the calling thread is no longer an LWP."""
    if current.get(lwp.ident) is lwp:
        outer, lwp.outer = lwp.outer, None
        if outer is None:
            del current[lwp.ident]
        else:
            current[lwp.ident] = outer
