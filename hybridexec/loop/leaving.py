"""Leaving: Ctrl-C while steps are blocked, maybe for ever.

On asyncio the second Ctrl-C ends a program: the one call that blocks is on the main thread, and is broken off.  Here
steps are blocked on other threads, where no call can be broken off, and all that comes after a run would wait for them:
the end of the tasks that are cancelled, and the close of the loop.  So:

* One second after a Ctrl-C the log says what the program waits for: blocked steps of tasks that were told to end, or
  all of them, if the loop is to stop and its home is one of them.
* Once ``KeyboardInterrupt`` has ended a run, blocked steps are waited for no longer than it takes the other tasks to
  end.  In the runs that follow, as soon as no task has ended for a second, ``KeyboardInterrupt`` is raised again; and
  the loop is closed without them.

Steps that are left behind so execute nothing any more: when their calls return they wait for a loop that is held by
nobody (rule 2).  Their threads are daemons, and end with the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ..following.tasks import task_of
from ..observing.log import say
from ..protocol.carrying import Carrying
from ..protocol.ending import abandon_blocked
from ..protocol.lwp import LWP

PATIENCE = 1.0
"""Seconds after which the log says what is waited for, or that is not waited for any more."""


class Leaving:
    """What one loop does about blocked steps when the program is told to end.

    Args:
        loop: the loop, or a weak reference's proxy of it.
        carrying: who carries it.
        fail: ends the run by an exception.
        listing: says what LWPs are blocked in.

    Attributes:
        left: whether the loop was closed without steps that are blocked.
    """

    def __init__(
        self,
        loop: Any,
        carrying: Carrying,
        fail: Callable[[BaseException], None],
        listing: Callable[[list[LWP]], str],
    ) -> None:
        self._loop = loop
        self._carrying = carrying
        self._pool = carrying.pool
        self._fail = fail
        self._listing = listing
        self._unfinished: frozenset[asyncio.Task[Any]] | None = None
        self._interrupted = False  # KeyboardInterrupt has ended a run while steps were blocked
        self.left = False

    def asked(self) -> None:
        """Ctrl-C has come.  The holder calls this."""
        self._loop.call_later(PATIENCE, self._tell)

    def _tell(self) -> None:
        """Say what is waited for: steps that are blocked, of tasks that were told to end."""
        with self._carrying.mutex:
            blocked = list(self._carrying.detached)
        waited_for = blocked if self._loop._stopping else list(filter(_is_told_to_end, blocked))
        if waited_for and not self._interrupted:
            said = "Ctrl-C: waiting for %d blocked steps; Ctrl-C again ends the program without them\n%s"
            say(logging.WARNING, said, len(waited_for), self._listing(waited_for))

    # ---------------------------------------------------------------- after a run that was ended

    def run_ended(self, failure: BaseException | None) -> None:
        """A run has ended, maybe by an exception."""
        if isinstance(failure, KeyboardInterrupt) and self._carrying.detached:
            self._interrupted = True
            self._pool.leave = self._leave

    def run_begins(self) -> None:
        """A run begins: that of the tasks that were cancelled, if the one before was ended."""
        if self._interrupted:
            self._unfinished = None
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        unfinished = frozenset(asyncio.all_tasks())
        if unfinished and unfinished == self._unfinished and self._carrying.detached:
            self._pool.patience = 0.0
            self._fail(KeyboardInterrupt())
            return
        self._unfinished = unfinished
        self._loop.call_later(PATIENCE, self._look)

    def _leave(self) -> bool:
        """The loop is closed: go without LWPs that are blocked.  Returns whether it can; else one is on its way."""
        self.left = abandon_blocked(self._carrying)
        return self.left


def _is_told_to_end(lwp: LWP) -> bool:
    """Whether an LWP's step is of a task that was cancelled."""
    task = task_of(lwp)
    return task is not None and task.cancelling() > 0
