"""The pool of one loop: the threads of its spares, from start to end.

It makes threads ready before a move needs them, starts them, and waits for them when the loop is closed.  Which of its
LWPs carries the loop, and when there has to be another, is decided elsewhere.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from .lwp import LWP, LwpState, has_started

CLOSE_PATIENCE = 1.0
"""Seconds that closing a loop waits for blocked LWPs before it says so."""

_serials = itertools.count(1)


class Pool:
    """The spares of one loop.

    Args:
        carrying: who carries it (``carrying.py``, which builds on this file).

    Attributes:
        initialize: what each spare calls first; the executor's.
        patience: how long closing the loop waits before it says so.
        prepared: the next LWP, if it is at hand.
        leave: goes without blocked LWPs, once they are not waited for any more; None: they always are.
    """

    def __init__(self, carrying: Any) -> None:
        self._carrying = carrying
        self.initialize: Callable[[], object] | None = None
        self.patience = CLOSE_PATIENCE
        self.leave: Callable[[], bool] | None = None
        self.prepared: LWP | None = None  # the next one
        self._ending: set[threading.Thread] = set()  # of LWPs that have retired; they may still take some time to end

    def prepare(self) -> bool:
        """Have an LWP at hand, so that a move need not ask for memory half way.  The mutex is held.

        Returns:
            Whether there is one; if not, the system has no lock or no memory to give.
        """
        if self.prepared is None:
            try:
                lwp = LWP(self._carrying, f"hybridexec-lwp-{next(_serials)}")
                self._carrying.host.equip(lwp)
                lwp.state = LwpState.WOKEN
                lwp.prepare(self._main)
                self.prepared = lwp
            except (RuntimeError, MemoryError):
                return False
        return True

    def new(self) -> LWP | None:
        """Take the LWP that is at hand; it is started later.  The mutex is held."""
        lwp = self.prepared if self.prepare() else None
        if lwp is not None:
            self.prepared = None
            self._carrying.lwps.add(lwp)
        return lwp

    def start(self, lwp: LWP) -> bool:
        """Start an LWP's thread.  Returns False if the system has none to give.

        Raises:
            BaseException: what a signal handler has raised meanwhile.
        """
        try:
            lwp.launched = True
            lwp.start()
        except BaseException as exc:
            # Nobody can tell whether the thread will come.  If it does, it finds that it is no longer one of us.
            self._carrying.disown(lwp)
            if not isinstance(exc, RuntimeError | MemoryError):
                raise
            if lwp.thread is not None:
                self._ending.discard(lwp.thread)  # it never comes
            self._carrying.host.voice.refused(len(self._carrying.lwps))
            return False
        self._carrying.host.voice.granted()
        for thread in list(self._ending):
            if thread.ident is not None and not thread.is_alive():
                self._ending.discard(thread)
        return True

    def _main(self, lwp: LWP) -> None:
        self._carrying.host.voice.started(lwp)
        self._carrying.host.luggage.begin(lwp)
        if self.initialize is not None:
            self.initialize()
        try:
            self._carrying.carry(lwp)
        except RuntimeError as exc:
            if not self._carrying.is_forked():
                raise
            # A child whose only thread is this one: nobody else could say what has happened.
            self._carrying.host.voice.forked(exc)
            os._exit(1)

    def retires(self, lwp: LWP) -> None:
        """An LWP is about to end.  The mutex is held."""
        if lwp.thread is not None and not lwp.luggage.outlives():
            self._ending.add(lwp.thread)

    def retired(self, lwp: LWP) -> None:
        """An LWP has ended."""
        self._carrying.host.voice.retired(lwp)
        self._carrying.changed.ring()

    def ended(self) -> Iterator[None]:
        """Wait until the last LWP has ended.  Yields whenever something has changed."""
        carrying, voice = self._carrying, self._carrying.host.voice
        patience = self.patience
        while True:
            with carrying.mutex:
                waiting = list(carrying.lwps)
            if not waiting:
                break
            if not carrying.changed.wait(patience):
                carrying.bury_ended()
                for lwp in waiting:
                    if not lwp.launched:
                        carrying.disown(lwp)  # an exception has kept its waker from starting it
                patience = CLOSE_PATIENCE if self.leave is not None else -1
                left = self.leave is not None and self.leave()
                voice.closing(waiting, left=left)
                if left:
                    break
            yield
        for thread in list(self._ending):
            if has_started(thread):
                thread.join()
        voice.closed()

    def loosen(self, carrying: Any) -> None:
        """The loop is closed: refer to it by this from now on."""
        self._carrying = carrying
        if self.prepared is not None:
            self.prepared.thread = None  # the two refer to one another
            self.prepared = None
