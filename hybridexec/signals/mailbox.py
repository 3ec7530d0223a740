"""Mailbox: what only the home can do is done there, on behalf of a step that runs elsewhere (rule 4).

CPython lets the main thread alone change signal handlers.  A step that runs on a spare and asks for it puts the call
into the home's mailbox and waits, as in any call that may block: the home does it as soon as it waits for the loop
itself.  If it is blocked in a step of its own for longer, it is nudged, and does it in the middle of that; if that
cannot be, the loop goes on meanwhile.
"""

from __future__ import annotations

import collections
import os
import sys
from collections.abc import Callable
from typing import Any

from ..detector.calls import Call, Site
from ..observing.upcalls import Detection
from ..platform.threads import os_ident
from ..protocol.carrying import Carrying
from ..protocol.lwp import LWP, Bell, LwpState, Region, current
from .nudge import NUDGE_PAUSE

PATIENCE = 0.1
"""Seconds that a blocked home has to serve by itself, before it is nudged for that: a signal ends calls of C code
that does not take them up again, as CPython does."""


class _Letter:
    __slots__ = ("call", "done", "error", "made", "result")

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.made = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = Bell()

    def serve(self) -> None:
        """Make the call, once, and tell who waits for it."""
        try:
            if not self.made:
                self.made = True
                self.result = self.call()
        except BaseException as exc:
            self.error = exc
        self.done.ring()


class Mailbox:
    """The home's mailbox of one loop.  Thread-safe.

    Args:
        carrying: who carries the loop.
        nudge: has a home serve that is blocked in a step.
    """

    def __init__(self, carrying: Carrying, nudge: Callable[[], None]) -> None:
        self._carrying = carrying
        self._nudge = nudge
        self._process = os.getpid()
        self._letters: collections.deque[_Letter] = collections.deque()

    def at_home(self, call: Callable[[], Any]) -> Any:
        """Have the home do something, and wait for it.  Anybody but a spare of the loop does it himself.

        Returns:
            What the call returns.

        Raises:
            BaseException: what the call raises.
        """
        lwp = self.spare()
        if lwp is None:
            return call()
        letter = _Letter(call)
        self._letters.append(letter)
        self.wait(lwp, "the main thread's help", lambda: self._await(letter))
        if letter.error is not None:
            raise letter.error
        return letter.result

    def is_forked(self) -> bool:
        """Whether this process is a child of the loop's."""
        return os.getpid() != self._process

    def spare(self) -> LWP | None:
        """The spare of the loop whose step calls this; None if it is anybody else."""
        lwp = current.get(os_ident())
        carrying = self._carrying
        if lwp is None or lwp.carrying is not carrying or lwp is carrying.home or self.is_forked():
            return None  # in a forked child, whose only thread is its main thread, asyncio asks before we know
        return lwp

    def wait(self, lwp: LWP, name: str, waits: Callable[[], object], *, sure: bool = False) -> None:
        """Have a step wait in a function of this package, as in a call that blocks, or may block."""
        frame = sys._getframe(1)
        waiting = Call(Site(frame.f_code, frame.f_lasti), name, None, Detection.DECLARED)
        region = lwp.region
        away = region is Region.AWAY  # it is without the loop, and stays so
        if not away:
            lwp.region = Region.OWN  # what is called on the way is no part of the step
            try:
                lwp.watch.reactions.call(lwp, waiting, sure)
            finally:
                lwp.region = region
        try:
            waits()
        finally:
            if not away:
                lwp.watch.reactions.over(lwp, waiting, raised=True)

    def _await(self, letter: _Letter) -> None:
        self._carrying.mail_home()
        home = self._carrying.home
        patience = PATIENCE
        while not letter.done.wait(patience):
            patience = NUDGE_PAUSE
            if home is not None and home.state is LwpState.BLOCKED:
                self._nudge()
            elif self._letters:
                self._carrying.mail_home()  # an exception may have kept the home from serving

    def serve(self) -> None:
        """Do what others have asked for.  On the home."""
        while self._letters:
            letter = None
            try:
                letter = self._letters.popleft()
                letter.serve()
            except BaseException:
                if letter is not None:  # somebody waits for it
                    self._letters.appendleft(letter)
                raise
