"""Affinity: user threads that are bound to an LWP, because they hold something that belongs to an OS thread.

A bound user thread takes its steps on its LWP alone (rule 6).  A step that becomes ready elsewhere is *kept* for that
LWP, in order, and the LWP queues for the loop as one that returns from a block does.  What binds:

* ``with hybridexec.bound():``, until it ends;
* a live greenlet that a step has switched to, until it is dead (SQLAlchemy's asyncio extension works that way);
* an ``RLock`` that is still owned when a step ends, until it is released, and one that ``_release_save`` has let go,
  until it is restored and released: where it cannot follow the loop instead (``following/rlocks.py``).

Only while a loop has bound user threads does it look whose step a callback is.

A loop may be run again, by another thread.  What is bound to the home of the run before waits until that thread runs
the loop once more, and the log says so.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

from ..detector.catalogue import Binds
from ..following import rlocks
from ..following.tasks import TASKS, task_of
from ..observing.log import say
from ..protocol.carrying import Carrying
from ..protocol.lwp import LWP
from .greenlets import GREENLET, Greenlets, elsewhere

_ABSENT = "task %r is bound to %s, a thread that does not run its loop any more: it waits until that one does so again"


class Affinity:
    """Which user threads of one loop are bound to which LWP, and why.  Only the loop's holder changes it."""

    def __init__(self, carrying: Carrying) -> None:
        self._carrying = carrying
        self.bound: dict[asyncio.Task[Any], LWP] = {}
        self._reasons: dict[asyncio.Task[Any], list[tuple[object, Callable[[], bool]]]] = {}
        self._told: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()  # of whom it was said what they wait for
        self.rlocks = rlocks.RLocks()
        self.greenlets = Greenlets()
        self.nested = 0  # steps that run the loop themselves

    def bind(self, lwp: LWP, task: asyncio.Task[Any], reason: object, holds: Callable[[], bool]) -> None:
        """Bind a user thread to the LWP that runs its step.

        Args:
            lwp: the LWP.
            task: the user thread.
            reason: what binds it.
            holds: whether the reason still holds; asked on the LWP at the end of steps.
        """
        reasons = self._reasons.setdefault(task, [])
        if not any(known is reason for known, _ in reasons):
            reasons.append((reason, holds))
        if task not in self.bound:
            self.bound[task] = lwp
            lwp.bound_tasks.append(task)
        lwp.luggage.check_bindings = lwp.slow_exit = True

    def unbind(self, task: asyncio.Task[Any], reason: object) -> None:
        """One reason to be bound is gone."""
        reasons = [known for known in self._reasons.get(task, ()) if known[0] is not reason]
        if reasons:
            self._reasons[task] = reasons
        else:
            self._reasons.pop(task, None)
            lwp = self.bound.pop(task, None)
            if lwp is not None:
                lwp.bound_tasks.remove(task)

    def orphaned(self, lwp: LWP) -> None:
        """The LWP has ended by an exception: its user threads are bound to nobody any more."""
        for task in lwp.bound_tasks:
            self.bound.pop(task, None)
            self._reasons.pop(task, None)
        lwp.bound_tasks.clear()

    def may_run(self, lwp: LWP, handle: asyncio.Handle) -> bool:
        """Whether a callback may run on an LWP; if not, it is kept for the one that it is bound to."""
        owner: Any = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
        task = owner.user_task if getattr(owner, "drives", False) else owner  # block_on
        if not isinstance(task, TASKS):
            return True
        bound_to = self.bound.get(task)
        if bound_to is None or bound_to is lwp:
            return True
        if bound_to not in self._carrying.lwps and task not in self._told:
            self._told.add(task)
            # In a step: who is blocked may have a lock of logging's.
            lwp.watch.reactions.loop.call_soon(say, logging.WARNING, _ABSENT, task.get_name(), bound_to.name)
        self._carrying.keep(bound_to, handle)
        return False

    def stays(self, lwp: LWP, frame: FrameType | None) -> bool:
        """Whether the loop must stay with a step, as no other thread could go on with what is in its greenlets.

        Args:
            lwp: whose step it is.
            frame: its innermost one.
        """
        if self.nested:
            return True
        if GREENLET not in sys.modules:
            return False
        return self.greenlets.tie() or (elsewhere(frame) and task_of(lwp) not in self.bound)

    def noticed(self, lwp: LWP, binds: Binds, argument: Any) -> None:
        """A step calls something that may tie it to its LWP."""
        if binds is Binds.GREENLET:
            if argument.parent is None:
                return  # a thread's own main greenlet ties nothing
            task = asyncio.current_task()
            if task is not None:
                self.bind(lwp, task, argument, lambda: not argument.dead)
            else:
                self.greenlets.entered(argument)
        elif isinstance(argument, rlocks.RLOCK):
            if binds is not Binds.RLOCK_SAVED:
                self.rlocks.noticed(lwp, argument, task_of(lwp) if self.rlocks.held else None)
            if binds is not Binds.RLOCK and not rlocks.FOLLOW:
                self._rebind(lwp, argument, saved=binds is Binds.RLOCK_SAVED)

    def _rebind(self, lwp: LWP, lock: Any, *, saved: bool) -> None:
        """A step lets an RLock go that it will take back in the name of its LWP, or takes it back."""
        task = asyncio.current_task()
        if task is not None:
            self.unbind(task, lock)
            self.bind(lwp, task, lock, (lambda: True) if saved else lock._is_owned)

    def after_step(self, lwp: LWP) -> None:
        """A step of an LWP that ties, or may tie, user threads to itself is over: see what still does."""
        task = task_of(lwp)
        owned = rlocks.owned(lwp, task)
        if rlocks.FOLLOW:
            self.rlocks.after_step(lwp, owned, task)
        elif task is not None and not task.done():
            for lock in owned:
                self.bind(lwp, task, lock, lock._is_owned)
        lwp.luggage.owned, lwp.luggage.suspended = [], []  # not before: what fails is done once more
        for task in list(lwp.bound_tasks):
            for reason, holds in list(self._reasons.get(task, ())):
                if task.done() or not holds():
                    self.unbind(task, reason)
            if task not in self._reasons and task in lwp.bound_tasks:  # an exception has broken that off
                self.bound.pop(task, None)
                lwp.bound_tasks.remove(task)
        lwp.luggage.check_bindings = lwp.slow_exit = bool(lwp.bound_tasks) or bool(self.rlocks.held)
