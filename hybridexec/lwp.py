"""LWPs: the OS threads that can carry an event loop.

An LWP (*light-weight process*, Solaris' word for what a kernel schedules) is either the **home** of a loop, the
thread that called ``run_forever``, or a **spare** that the loop's pool has started.  This file knows what an LWP is
and how it sleeps and wakes; who carries the loop is decided in ``carrying.py``, which owns every state change.

An LWP sleeps on a plain lock used as a binary semaphore.  Whoever wakes it first changes its state to WOKEN under
the mutex of the loop, and only then releases the lock: so a sleeper whose time runs out can tell, under the same
mutex, whether somebody is just waking it.  A wake that comes late only makes a later sleep short.
"""

from __future__ import annotations

import _thread
import asyncio
import enum
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from . import machine, memory
from .following import children
from .following.thread_locals import Wardrobe
from .identity import os_ident, os_thread
from .threads import OsThread

TASK_OF_THREAD = sys.version_info >= (3, 14)
"""Whether asyncio's current task is a property of the thread, which stays with it when the loop leaves; before, it was
one of the loop."""

if TYPE_CHECKING:
    from .carrying import Carrying
    from .detector.calls import Call
    from .detector.trap import Trap
    from .following.attributes import Values


class LwpState(enum.Enum):
    """What an LWP does now.  Changes only under the mutex of its loop."""

    PARKED = "parked"
    """Asleep; ready to be woken for work."""
    WOKEN = "woken"
    """Somebody has woken it; it is on its way."""
    POLLING = "polling"
    """Waits in the poll of the loop.  It holds the loop only if nobody else could take it: there is no other LWP, or
    the engine is not claimable."""
    RUNNING = "running"
    """Carries the loop."""
    MARKED = "marked"
    """Carries the loop, inside a call that may block: the sampler may retake the loop."""
    BLOCKED = "blocked"
    """Inside a blocking call (or a ``blocking()`` region), without the loop."""
    RETURNING = "returning"
    """The call is over: asleep in the queue for the loop."""
    PREEMPTED = "preempted"
    """Its step overran the time slice: asleep in the queue of the preempted."""
    RETIRED = "retired"
    """Has ended, or is about to, and touches nothing of the loop any more."""


WAITING = (LwpState.PARKED, LwpState.RETURNING, LwpState.PREEMPTED, LwpState.WOKEN)
"""The states of an LWP that sleeps, or was just woken."""

RELIED_ON = (*WAITING, LwpState.POLLING)
"""The states of an LWP that the others may count on: it is to take the loop when it is free."""


class Region(enum.Enum):
    """Which code of a step is none of the detector's business, and why."""

    AWAY = "away"
    """A ``blocking()`` region, without the loop."""
    HERE = "here"
    """A ``blocking()`` region whose loop stays with it (mode "observe", or pinned): the region is what is reported."""
    OWN = "own"
    """What this package does on the way: the protocol, and the instruments."""


# As it was when this module was imported: tools for tests (blockbuster) put a function in its place that raises in a
# thread with a running loop, and an LWP that sleeps is in one.
_acquire = _thread.LockType.acquire


class Bell:
    """A binary semaphore: a ring that nobody waits for ends the next wait.  Any thread may ring.

    A plain lock underneath, so that nothing of the standard library's Python code runs when the protocol rings.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Wake who waits, or who will wait next."""
        try:
            self._lock.release()
        except RuntimeError:  # it rings already
            return

    def wait(self, timeout: float = -1) -> bool:
        """Wait for a ring, for ``timeout`` seconds; -1: for ever.  Returns whether it rang."""
        return _acquire(self._lock, True, timeout)


START_PATIENCE = 1.0
"""Seconds that the end of a loop waits for a thread that may never come."""


def started(thread: threading.Thread) -> bool:
    """Whether a thread has come.  One whose start a signal handler has interrupted may be on its way, or was never
    made: nobody can tell, so this waits a while."""
    return bool(thread._started.wait(START_PATIENCE))  # type: ignore[attr-defined]


class LWP:
    """One OS thread that can carry a loop.

    Attributes:
        name: the name of the thread.
        ident: the identity of the OS thread.
        state: what it does now.
        handle: the callback that its current step runs; None outside of a step.
    """

    __slots__ = (
        "_bell",
        "affine",
        "alert",
        "attributes",
        "began",
        "bound_tasks",
        "call",
        "carrying",
        "children",
        "clock",
        "deadline",
        "handle",
        "hooks",
        "ident",
        "identity",
        "interrupt",
        "kept",
        "launched",
        "meant",
        "moved",
        "name",
        "native",
        "outer",
        "owned",
        "pin_count",
        "pin_step",
        "region",
        "since",
        "state",
        "suspended",
        "task",
        "thread",
        "thread_state",
        "tracers",
        "tracking",
        "trap",
        "wardrobe",
    )

    def __init__(self, carrying: Carrying, name: str) -> None:
        self.carrying = carrying
        self.name = name
        self.ident = 0
        self.identity = 0  # what threading.get_ident() says there: the home's, once it carries the loop
        self.native = 0  # what the system calls its thread
        self.clock: int | None = None  # of its thread's processor time
        self.launched = False  # its thread exists, or is being started
        self.thread: threading.Thread | None = None
        self.state = LwpState.PARKED
        self.began = 0.0  # when its step began; kept only if the loop preempts
        self.handle: asyncio.Handle | None = None
        self.call: Call | None = None  # the declared call that its step is in
        self.trap: Trap | None = None  # the trap that waits for its step
        self.task: asyncio.Task[Any] | None = None  # the loop's current task while it is without the loop (3.12, 3.13)
        self.since = 0.0  # when it began to wait for the loop
        self.deadline = 0.0  # until when it polls
        self.interrupt: BaseException | None = None  # arrived while it slept, to be raised in its step
        self.meant = 0  # the identity of an exception that the protocol raises for its step to get
        self.region: Region | None = None  # what its step is in
        self.pin_count = 0  # how many pinned() regions its step, a callback that is no task's, has entered
        self.pin_step: asyncio.Handle | None = None  # ... and which step that is
        self.kept: list[asyncio.Handle] = []  # steps of bound user threads that only this LWP may take
        self.bound_tasks: list[asyncio.Task[Any]] = []  # the user threads that are bound to it
        self.affine = False  # the end of its step has to be looked at, for what is bound
        self.moved = False  # the loop has left its step
        self.alert = False  # the end of its step has to be looked at, for whatever reason
        self.suspended: list[asyncio.Task[Any] | None] = []  # whose code its step has suspended in a with
        self.outer: LWP | None = None  # of another loop, in whose blocking() region this one is the home
        self.owned: list[Any] = []  # RLocks its current step has acquired, maybe
        self.tracking: int | None = None  # in debug mode: what its thread's coroutine origin tracking was before
        self.thread_state = 0  # the address of the interpreter's structure for its thread, while that is sure to live
        self.tracers: tuple[Any, Any] = None, None  # its thread's tracer and profiler, when last it gave up the loop
        self.hooks: tuple[Any, Any] = None, None  # the hooks for new threads that there were when it got them
        self.attributes: Values | None = None  # what its thread has got, since a step has asked for it
        self.children: list[int] = []  # processes that its thread has started, and must not end before
        self.wardrobe = Wardrobe()  # whose thread-locals it sees
        self._bell = Bell()

    def __repr__(self) -> str:
        return f"<LWP {self.name} {self.state.value}>"

    def frame(self) -> FrameType | None:
        """The innermost frame of its thread; None if that runs no Python code, or has ended.  Any thread may ask.

        With the GIL it asks for this one thread.  ``sys._current_frames()`` goes through the threads of all
        interpreters, and those that have a GIL of their own run meanwhile: that corrupts memory.
        """
        if not memory.GIL:
            return sys._current_frames().get(self.ident)
        try:
            # In one go, as far as the GIL is concerned: the thread cannot end between the two.
            return memory.frame_of(state) if (state := self.thread_state) else None
        except ValueError:  # how ctypes says that there is none
            return None

    def sleep(self, timeout: float = -1) -> bool:
        """Sleep until :meth:`wake`, or for ``timeout`` seconds.

        Returns:
            Whether it was woken.

        Raises:
            BaseException: whatever a signal handler raised meanwhile (on the main thread).
        """
        return self._bell.wait(timeout)

    def wake(self) -> None:
        """Wake it.  A wake that nobody sleeps for ends the next sleep: every sleeper looks again why it was woken."""
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
        """Whether its thread has come, and has ended since.  Any thread may ask."""
        return self.ident != 0 and self.thread is not None and not self.thread.is_alive()

    def adopt(self) -> None:
        """Make the calling thread this LWP's thread."""
        self.thread = os_thread()
        self._settle()

    def release(self) -> None:
        """The calling thread is this LWP's no longer."""
        self.thread_state = 0
        unregister(self)

    def _settle(self) -> None:
        self.launched = True
        self.ident = self.identity = os_ident()
        self.native = threading.get_native_id()
        self.clock = machine.own_clock()
        self.thread_state = memory.thread_state()
        register(self)

    def _main(self, target: Callable[[LWP], None]) -> None:
        try:
            self._settle()
            target(self)
        except BaseException as exc:
            self.carrying.bury(self, exc)
        finally:
            try:
                self.wardrobe.take_off()
            finally:
                self.release()
        if self.children and self.thread is not None:
            self.thread.name = self.name.replace("-lwp-", "-parent-")
            children.await_end(self.children)

    def _ended(self) -> None:
        """Its thread ends.  It has retired, or was buried; else even that has failed, or it has never come."""
        self.wardrobe.take_off()  # who comes after it may have its identity
        if self.state is not LwpState.RETIRED:
            self.carrying.bury(self, sys.exception() or RuntimeError(f"the thread of {self.name} has ended"))


class StandIn(asyncio.Handle):
    """Stands for a step in ``LWP.handle`` where there is none, and yet code of the program runs."""

    def __init__(self, description: str) -> None:  # there is no loop that it belongs to
        self._description = description

    def __repr__(self) -> str:
        return self._description


IN_POLL = StandIn("<in the poll>")
"""While an engine polls that calls the program back from its poll (uvloop, methods of protocols).  What blocks there
is seen like that in a step; but the loop cannot move away from it."""

OVER = StandIn("<a step that is over>")
"""While the last reference to a step that is over is dropped: its finalizers and those of its arguments may block, as a
step does."""


current: dict[int, LWP] = {}
"""The LWPs of the process, by the identity of their thread.  Read without a lock: a thread looks for itself only, and
a dictionary of built-in keys is safe to read while others change it, with the GIL and without."""


def register(lwp: LWP) -> None:
    """Note that the calling thread is an LWP.  Loops nest on one thread: one may run in a blocking() of another."""
    lwp.outer = current.get(lwp.ident)
    current[lwp.ident] = lwp


def unregister(lwp: LWP) -> None:
    """Note that the calling thread is an LWP no longer."""
    if current.get(lwp.ident) is lwp:
        outer, lwp.outer = lwp.outer, None
        if outer is None:
            del current[lwp.ident]
        else:
            current[lwp.ident] = outer
