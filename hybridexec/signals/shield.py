"""Shield: on the main thread, what a signal handler raises comes up in the program's code alone.

CPython calls signal handlers on the main thread, between any two instructions, and what they raise (Ctrl-C) comes up
right there.  That may be in the middle of the protocol: between a queue and its wake-up, in the first instruction of
``blocking().__exit__``, in a callback of the detector, in the start of a thread.  Nothing there could be left half
done, and no ``try`` can begin early enough.  So, while a loop has the main thread for its home, one function stands in
for every handler of the program.  When a handler runs is said in ``handlers.py``; what it *raises* where the protocol
was interrupted is **put off**.  It is raised again where the step goes on: at the end of what the detector or a region
does (``reactions/reactions.py``), or else when the home is nudged (``nudge.py``), in the step's own code; or out of
``run_forever`` if there is no step.

Whose code was interrupted the stack tells: this package's own code, or anything that it has called, between the
interrupted frame and the frame that calls the program (``callers``), means the protocol.  This costs nothing until a
signal comes.

An engine may ask for more.  uvloop sets its own signal handling up and down around each run, in Python code that does
not recover from an exception: so while the shield is *closed* a signal is only noted, and its handler is called when
it is opened.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import asyncio
import collections
import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

from ..detector import stands_in_callback
from ..platform.own import DIRECTORY, own
from ..platform.restarting import keeping
from ..protocol.lwp import LWP, Bell
from .handlers import Handling

_LIBRARY = (DIRECTORY + "executor" + os.sep, DIRECTORY + os.path.join("following", "libraries.py"))
"""This package's code that a step calls, and that may block as a library's: the home may borrow the loop there."""

_WAIT = Bell.wait.__code__  # a step that blocks in a function of this package's stands there
_PLAIN = (_signal.default_int_handler, getattr(getattr(asyncio, "unix_events", None), "_sighandler_noop", None))
"""Handlers that touch nothing of the loop; and so do this package's own."""


class Shield:
    """Stands between the signals and the program's handlers.  On the main thread.

    Args:
        callers: the code whose frames call the program.
        put_off: keeps what a handler has raised in the middle of the protocol.
        handle: calls a handler.
        handling: is told of each handler, when it begins and when it is over.

    Attributes:
        closed: whether handlers have to wait for the engine.
        pending: the signals that came meanwhile.
        noted: the signals whose handlers wait for the home to have the loop.
        waiting: rung when a handler of the program's has been called.
        quiet: the handler that is none of the program's.
    """

    def __init__(
        self,
        callers: frozenset[CodeType],
        put_off: Callable[[BaseException], None],
        handle: Callable[[Any, int, FrameType | None], None],
        handling: Handling,
    ) -> None:
        self.closed = False
        self.pending: collections.deque[int] = collections.deque()
        self.noted: collections.deque[int] = collections.deque()
        self.waiting: set[Bell] = set()
        self.quiet: Any = None
        self._callers = callers
        self._ends = callers | {_CALL}
        self._put_off = put_off
        self._handle = handle
        self._handling = handling
        self._up = False
        self._outer: Any = None  # of the loop in whose blocking() region this one runs
        self._handlers: dict[int, Any] = {}

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """A signal has come."""
        if self.closed:
            self.pending.append(signum)
        else:
            self._came(signum, frame)

    def open(self) -> None:
        """Call the handlers that have waited.

        Raises:
            BaseException: what one of them raises; those behind it are called the next time.
        """
        self.closed = False
        while self.pending:
            self._came(self.pending.popleft(), sys._getframe(1))

    def _came(self, signum: int, frame: FrameType | None) -> None:
        try:
            handler = self._known(signum)
            if handler is None:
                return
            if not self._up or _is_plain(handler):
                self._call(handler, signum, frame)
            else:
                self.noted.append(signum)
                self.attend(frame)
        except BaseException as exc:
            if self.noted:
                self._handling.summon()  # this has failed before they were called
            if self._surfaces(frame):
                raise
            self._put_off(exc)

    def attend(self, frame: FrameType | None) -> None:
        """Call the handlers that wait for the loop, if they need not wait any longer.

        Args:
            frame: what a signal has interrupted, now or before.

        Raises:
            BaseException: what one of them raises, if this package's code was not interrupted; those behind it wait on.
        """
        if self.noted:
            call = functools.partial(self._call_noted, frame)
            self._handling.attend(call, half_way=self._is_half_way(frame), nudges=self.quiet is not None)

    def catch_up(self, home: LWP) -> None:
        """The home holds the loop, and whatever waits for that comes first."""
        self._handling.with_loop(home, functools.partial(self._call_noted, sys._getframe()))

    def _call_noted(self, frame: FrameType | None) -> None:
        try:
            while True:
                try:
                    signum = self.noted.popleft()
                except IndexError:  # also if another signal has come since one looked, and its handler took the last
                    break
                handler = self._known(signum)
                if handler is not None:
                    self._call(handler, signum, frame)
        finally:
            self._handling.caught_up()
            if self.noted:
                self._handling.summon()

    def _call(self, handler: Any, signum: int, frame: FrameType | None) -> None:
        try:
            begun = self._handling.begin()
            try:
                if stands_in_callback(sys._getframe(1), self._ends):
                    sys.call_tracing(self._handle, (handler, signum, frame))  # else its blocks would be no events
                else:
                    self._handle(handler, signum, frame)
            finally:
                self._handling.end(begun)
                if handler != self.quiet:
                    for bell in list(self.waiting):
                        bell.ring()
        except BaseException as exc:
            if self._surfaces(frame):
                raise
            self._put_off(exc)

    def _surfaces(self, frame: FrameType | None) -> bool:
        """Whether an exception comes up where a signal has come."""
        return not self._up or not self._interrupts_protocol(frame)

    def _known(self, signum: int) -> Any:
        """The program's handler."""
        handler = self._handlers.get(signum)
        return handler._known(signum) if isinstance(handler, Shield) else handler

    def _interrupts_protocol(self, frame: FrameType | None) -> bool:
        innermost = True
        while frame is not None:
            code = frame.f_code
            if code.co_filename != __file__:  # a handler may be interrupted by another: whose code was it before?
                if code in self._callers:
                    return innermost and own(code)
                if own(code):
                    return True
                innermost = False
            frame = frame.f_back
        return False

    def _is_half_way(self, frame: FrameType | None) -> bool:
        """Whether a signal has come in the middle of the protocol, or what that has called: others may wait for it."""
        if frame is None or frame.f_code is _WAIT:
            return False
        innermost = True
        while frame is not None:
            code = frame.f_code
            if code in self._callers or code is _CALL:
                return innermost and own(code)
            if own(code) and code is not self._handle.__code__ and not code.co_filename.startswith(_LIBRARY):
                return True
            innermost = False
            frame = frame.f_back
        return False

    def signal(self, signum: int, handler: Any) -> Any:
        """As ``_signal.signal``."""
        if not callable(handler):
            known, before = self._known(signum), _signal.signal(signum, handler)
            self._handlers.pop(signum, None)
            return known if before is self else before
        known, former = self._known(signum), self._handlers.get(signum)
        self._handlers[signum] = handler
        try:
            before = _signal.signal(signum, self)
        except BaseException:
            self._handlers[signum] = former
            raise
        return known if before is self else before

    def getsignal(self, signum: int) -> Any:
        """As ``_signal.getsignal``."""
        handler = _signal.getsignal(signum)
        return self._known(signum) if handler is self else handler

    def forked(self) -> None:
        """This process is a child: there is no protocol any more that anything could be put off for."""
        self._up = self.closed = False
        self.pending.clear()
        self.noted.clear()
        self._handling.caught_up()

    @contextlib.contextmanager
    def up(self) -> Iterator[None]:
        """Stand in for all handlers, inside of the ``with`` statement."""
        try:
            self._up = True
            for signum in _signal.valid_signals():
                handler = _signal.getsignal(signum)
                if isinstance(handler, Shield) and handler is not self:
                    self._outer = handler
                if callable(handler) and handler is not self:  # an exception may have kept it from going
                    keeping(self.signal, signum, handler)
            yield
        finally:
            self._down()
            self.open()
            self.attend(sys._getframe())

    def is_up(self) -> bool:
        """Whether it stands in for the handlers."""
        return self._up

    def _down(self) -> None:
        try:
            for signum, handler in self._handlers.items():
                if _signal.getsignal(signum) is self:
                    restore = _signal.signal if self._outer in (None, handler) else self._outer.signal
                    keeping(restore, signum, handler)
            self._up = False
        except BaseException:  # from a handler that is in its own place again
            self._down()
            raise


_CALL = Shield._call.__code__  # whose frames call the program's handlers


def _is_plain(handler: Any) -> bool:
    """Whether a handler needs no loop."""
    code = getattr(handler, "__code__", None)
    return any(handler is plain for plain in _PLAIN) or (isinstance(code, CodeType) and own(code))
