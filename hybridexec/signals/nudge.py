"""Nudge: a home that is blocked, or polls, calls the signal handlers that are due.

CPython calls signal handlers on the main thread alone, between two instructions, or when a signal ends the system call
that it is in.  One that comes before that call has begun does neither, and a home whose step has just lost the loop
waits for the interpreter right there.  So when the wake-up fd tells of a signal and the home is blocked, it is
*nudged*: sent a signal that means nothing (SIGURG, as Go's runtime does), until the handler of that one has been
called, and with it all others.  The call that it is in is ended by that, unless the signal that has come would have it
made again (``signal.siginterrupt``; so asyncio has it for its own handlers): then the nudge does so, too.

So is a home that polls, if another LWP reads that fd: it may be empty again before the home's poll has begun.  While a
step computes nobody reads it; then the sampler looks at it.  A home whose step has something to raise that was put off
(``shield.py``) is nudged, too.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType

from ..detector.calls import excluded
from ..platform.own import own
from ..platform.restarting import restarts
from ..protocol.carrying import Carrying
from ..protocol.lwp import LWP, LwpState
from .shield import Shield

NUDGE_PAUSE = 0.02
"""Seconds between two nudges."""

ANSWERS = 2
"""A signal that comes while the handlers are called may miss the first round of them, but not the second."""

_NUDGE: int | None = getattr(signal, "SIGURG", None) if hasattr(signal, "pthread_kill") else None
_NO_SIGNALS = bytes([0, _NUDGE or 0])  # what else may be in the wake-up fd: pokes, and the nudges themselves


class Nudges:
    """Sees that a blocked home calls the signal handlers that are due.  The loop's holder asks, the home answers."""

    def __init__(
        self,
        carrying: Carrying,
        shield: Shield,
        call_later: Callable[[float, Callable[[], None]], object],
        serve: Callable[[], None],
    ) -> None:
        self._carrying = carrying
        self._shield = shield
        self._call_later = call_later
        self._serve = serve
        self._due = 0  # how often the home has to answer
        self._restarts = False  # whether all signals that this is for leave calls to be made again
        self._nudging = False  # a timer is set
        self._peeked = 0  # how much of what the wake-up fd tells has been looked at, and not read
        self._mine = False  # the signal's handler is ours

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """On the main thread: have the signal handled, unless the program does so itself."""
        if _NUDGE is None or _signal.getsignal(_NUDGE) != _signal.SIG_DFL:
            yield
            return
        try:
            self._shield.signal(_NUDGE, self._answered)
            self._shield.quiet = self._answered
            self._mine = True
            yield
        finally:
            self._mine = False
            self._shield.quiet = None
            self._due = 0
            if self._shield.getsignal(_NUDGE) == self._answered:
                self._shield.signal(_NUDGE, _signal.SIG_DFL)

    def heed(self, waker: socket.socket) -> None:
        """Look at what the wake-up fd tells, without reading it: nobody may, in a busy loop.  The sampler asks."""
        if not self._mine:
            return
        try:
            numbers = waker.recv(4096, socket.MSG_PEEK)
        except OSError:  # it tells nothing, or the loop is just closed
            return
        if len(numbers) > self._peeked:
            self._peeked = len(numbers)
            self._note(numbers)
        if self._due > 0:
            self._send(restart=self._restarts)

    def came(self, numbers: bytes) -> None:
        """The wake-up fd has told of signals."""
        self._peeked = 0
        if self._note(numbers) and not self._nudging:
            self._nudge()

    def _note(self, numbers: bytes) -> bool:
        """Have the home answer, if these are signals.  Returns whether they are."""
        came = numbers.translate(None, _NO_SIGNALS)
        if came:
            self._restarts = (self._restarts or self._due <= 0) and all(map(restarts, came))
            self._due = ANSWERS
        return bool(came)

    def _nudge(self) -> None:
        home = self._carrying.home
        self._nudging = self._mine and self._due > 0 and home is not None and self._may_miss(home)
        if self._nudging:
            self._send(restart=self._restarts)
            self._call_later(NUDGE_PAUSE, self._nudge)

    def _may_miss(self, home: LWP) -> bool:
        """Whether a home may sit in a system call that no signal ends any more: in a step's; or in the poll, if the
        holder, which asks, has emptied the wake-up fd before that began."""
        return home.state is LwpState.BLOCKED or (home.state is LwpState.POLLING and self._carrying.holder is not home)

    def remind(self) -> None:
        """Nudge a home whose step has to raise what was put off, to call a handler, or to serve.

        Who asks does so until that is done.
        """
        self._send(restart=False)

    def _send(self, *, restart: bool) -> None:
        home = self._carrying.home
        if self._mine and home is not None and _NUDGE is not None:
            signal.siginterrupt(_NUDGE, not restart)
            signal.pthread_kill(home.ident, _NUDGE)

    def _answered(self, signum: int, frame: FrameType | None) -> None:
        """What the home calls when it is nudged, together with all that is due.

        Raises:
            BaseException: what was put off; not in the middle of asyncio's code, whose callback would be lost.
        """
        self._due -= 1
        home = self._carrying.home
        if home is not None and home.state is LwpState.BLOCKED and frame is not None and not own(frame.f_code):
            self._serve()
        self._shield.attend(frame)
        if home is not None and home.handle is not None and not (frame is not None and excluded(frame.f_code)):
            home.watch.reactions.interrupt(home)
