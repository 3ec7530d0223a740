"""The pool of one loop: the threads of its spares, from start to end.

The pool starts threads, says what there is to say about them (upcalls, the log), and waits for them when the loop is
closed.  Which of its LWPs carries the loop, and when there has to be another, is the business of ``carrying.py``.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from . import limits
from .face import Face
from .log import LISTED, Trouble, say, told
from .lwp import LWP, LwpState, started
from .upcalls import UpcallKind

if TYPE_CHECKING:
    from .carrying import Carrying

CLOSE_PATIENCE = 1.0
"""Seconds that closing a loop waits for blocked LWPs before it says so in the log."""

_UNTIL = "until that is better, the loop waits for LWPs that are blocked to come back"

_refusals = Trouble("the system had no thread for an LWP again (%d times)")
"""Of the process: what it may have, all its loops share."""


def _why() -> str:
    """Why there is no thread.  Files are read for that; and what is short may be what that needs."""
    try:
        return limits.why_no_thread()
    except Exception as exc:
        return f"the cause cannot be found out ({told(exc)})"


_serials = itertools.count(1)


class Pool:
    """The spares of one loop.

    Args:
        face: the loop.
        carrying: who carries it.
    """

    def __init__(self, face: Face, carrying: Carrying) -> None:
        self._face = face
        self._carrying = carrying
        self.initialize: Callable[[], object] | None = None  # what each LWP calls first; the executor's
        self._prepared: LWP | None = None  # the next one
        self._repaired = False  # it was said that the loop had to be repaired
        self.patience = CLOSE_PATIENCE
        self.leave: Callable[[], bool] | None = None  # goes without blocked LWPs, once they are not waited for any more
        self._exhaustion = Trouble("all LWPs of a loop were blocked again (%d times)")
        self._ending: set[threading.Thread] = set()  # of LWPs that have retired; they may still take some time to end

    def prepare(self) -> bool:
        """Have an LWP at hand, so that a move need not ask for memory half way.  The mutex is held.

        Returns:
            Whether there is one; if not, the system has no lock or no memory to give.
        """
        if self._prepared is None:
            try:
                lwp = LWP(self._carrying, f"hybridexec-lwp-{next(_serials)}")
                lwp.state = LwpState.WOKEN
                lwp.prepare(self._main)
                self._prepared = lwp
            except (RuntimeError, MemoryError):
                return False
        return True

    def new(self) -> LWP | None:
        """Take the LWP that is at hand; it is started later.  The mutex is held."""
        lwp = self._prepared if self.prepare() else None
        if lwp is not None:
            self._prepared = None
            self._carrying.lwps.add(lwp)
        return lwp

    def start(self, lwp: LWP) -> bool:
        """Start an LWP's thread.  Returns False, and says so in the log, if the system has none to give.

        Raises:
            BaseException: what a signal handler has raised meanwhile.
        """
        try:
            lwp.launched = True
            lwp.start()
        except BaseException as exc:
            # Nobody can tell whether the thread will come.  If it does, it finds that it is not one of us any more.
            self._carrying.disown(lwp)
            if not isinstance(exc, RuntimeError | MemoryError):
                raise
            self._ending.discard(lwp.thread)  # it never comes
            if _refusals.is_news(""):
                alive = len(self._carrying.lwps)
                say(logging.ERROR, "the system has no thread for another LWP beside %d: %s; %s", alive, _why(), _UNTIL)
            return False
        _refusals.is_over()
        for thread in list(self._ending):
            if thread.ident is not None and not thread.is_alive():
                self._ending.discard(thread)
        return True

    def _main(self, lwp: LWP) -> None:
        self._face.notice(UpcallKind.LWP_STARTED, lwp)
        self._face.started(lwp)
        if self.initialize is not None:
            self.initialize()
        try:
            self._carrying.carry(lwp)
        except RuntimeError as exc:
            if not self._carrying.is_forked():
                raise
            # A child whose only thread is this one: nobody else could say what has happened.
            say(logging.CRITICAL, "a forked child ends: %s", exc)
            os._exit(1)

    def retires(self, lwp: LWP) -> None:
        """An LWP is about to end.  The mutex is held."""
        if lwp.thread is not None and not lwp.children:
            self._ending.add(lwp.thread)

    def retired(self, lwp: LWP) -> None:
        """An LWP has ended."""
        self._face.notice(UpcallKind.LWP_RETIRED, lwp)
        self._carrying.changed.ring()

    def log_repaired(self) -> None:
        """Nobody came for the loop, and somebody does now."""
        if not self._repaired:
            self._repaired = True
            say(logging.ERROR, "an exception had broken off a move of the loop, and nobody came for it: repaired")

    def log_exhausted(self, most: int) -> None:
        """Every LWP that there may be is blocked."""
        carrying = self._carrying
        with carrying.mutex:
            lwps = list(carrying.detached)
            home = carrying.home
        stuck = self._face.stuck(lwps)
        if self._exhaustion.is_news(frozenset(self._face.places(lwps))):
            # An executor's loop (it has an initializer) that is given more than it has LWPs for does what it is for.
            level = logging.INFO if self.initialize is not None and not stuck else logging.WARNING
            said = "all %d LWPs are blocked (max_lwps): the loop waits until one comes back%s\n%s"
            say(level, said, most, stuck, self._list(lwps))
        if home is not None:
            self._face.notice(UpcallKind.EXHAUSTED, home)

    def ended(self) -> Iterator[None]:
        """Wait until the last LWP has ended.  Yields whenever something has changed."""
        carrying = self._carrying
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
                        carrying.disown(lwp)  # an exception has kept somebody from starting it
                patience = CLOSE_PATIENCE if self.leave is not None else -1
                if self.leave is not None and self.leave():
                    said = "Ctrl-C: the loop is closed without %d blocked steps:\n%s"
                    say(logging.WARNING, said, len(waiting), self._list(waiting))
                    break
                said = "the loop is closed and waits for %d blocked LWPs:\n%s"
                say(logging.WARNING, said, len(waiting), self._list(waiting))
            yield
        for thread in list(self._ending):
            if started(thread):
                thread.join()
        self._exhaustion.is_over(for_good=True)
        _refusals.is_over()

    def loosen(self, face: Face, carrying: Carrying) -> None:
        """The loop is closed: refer to it by these from now on."""
        self._face = face
        self._carrying = carrying
        if self._prepared is not None:
            self._prepared.thread = None  # the two refer to one another
            self._prepared = None

    def _list(self, lwps: list[LWP]) -> str:
        if len(lwps) <= LISTED:
            return "\n".join(f"  {lwp.name}: {self._face.describe(lwp)}" for lwp in lwps)
        places = self._face.places(lwps)
        lines = [f"  {count} in {place}" for place, count in places.most_common(LISTED)]
        others = len(lwps) - sum(count for _, count in places.most_common(LISTED))
        return "\n".join([*lines, f"  {others} in other places"] if others else lines)
