"""The home's side: what the protocol has the home do, and what becomes of what a signal handler raises there.

On asyncio what a handler raises (a second Ctrl-C) breaks off the call that the main task is blocked in.  CPython breaks
calls off on the main thread alone: elsewhere they are taken up again after any signal, and an exception that another
thread sends (``PyThreadState_SetAsyncExc``) waits for their end.  So if the main task is blocked on a spare, and the
home has no step of its own, the exception is *passed on*: it comes up in the main task when that call has returned.
The log says what is waited for.  If another one comes before that, it is taken back, and both come out of the run.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

from ..following.tasks import task_of
from ..observing.log import say
from ..protocol.carrying import Carrying
from ..protocol.lwp import LWP
from .mailbox import Mailbox
from .nudge import Nudges
from .shield import Shield

_PASSED_ON = (
    "%s: the main task is blocked where no signal can break its call off, and gets it when that call is over; "
    "the next one ends the run\n  %s: %s"
)
_GIVEN_UP = "%s: the run ends; who waits for its tasks waits for the main task, too\n  %s: %s"


class HomeSide:
    """What the home of one loop does.  The protocol's ``HomeSide``.

    Args:
        loop: the loop.
        carrying: who carries it.
        shield: stands between the signals and their handlers.
        mailbox: what others have asked the home to do.
        nudges: nudges the home.
        describe: says what an LWP is blocked in.
    """

    def __init__(
        self,
        loop: Any,
        carrying: Carrying,
        shield: Shield,
        mailbox: Mailbox,
        nudges: Nudges,
        describe: Callable[[LWP], str],
    ) -> None:
        self._loop = loop
        self._carrying = carrying
        self._shield = shield
        self._mailbox = mailbox
        self._nudges = nudges
        self._describe = describe

    def loosen(self, loop: Any) -> None:
        """The loop is closed: refer to it by this from now on."""
        self._loop = loop

    def serve(self) -> None:
        """Do what others have asked of the home."""
        self._mailbox.serve()
        self._shield.attend(sys._getframe())

    def catch_up(self, home: LWP) -> None:
        """Call the signal handlers that have waited for the loop."""
        self._shield.catch_up(home)

    def passes_on(self, interrupt: BaseException) -> bool:
        """A signal handler has raised while the home has no step: a main task that is blocked elsewhere may have it."""
        lwp = self._blocked_main()
        if lwp is None:
            return False
        waiting = lwp.interrupt
        passed = waiting is None
        lwp.interrupt = interrupt if passed else None
        if not passed:  # both come out of the run, or nobody could ever end it
            interrupt.__context__ = interrupt.__context__ or waiting
        said = _PASSED_ON if passed else _GIVEN_UP
        # Said in a step: whoever is blocked may have a lock of logging's.
        self._loop.call_soon(say, logging.WARNING, said, type(interrupt).__name__, lwp.name, self._describe(lwp))
        return passed

    def _blocked_main(self) -> LWP | None:
        """The LWP whose step is the main task's, if that is without the loop.  The home, which holds it, asks."""
        main = self._loop._main
        with self._carrying.mutex:
            for lwp in self._carrying.detached:
                task = task_of(lwp)
                if task is not None and main in (task, task.get_coro()):
                    return lwp
        return None

    def remind(self) -> None:
        """The home's step has to raise what was put off, or to do what others have asked for."""
        self._nudges.remind()

    def heed(self) -> None:
        """The home is blocked, and the loop maybe busy: look for signals without reading of them."""
        self._nudges.heed(self._loop._ssock)
