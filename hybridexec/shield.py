"""Shield: moments on the main thread in which no signal handler of the program may raise.

uvloop sets its own signal handling up and down around each run, on the main thread, in Python code.  A signal handler
that raises there (Ctrl-C) leaves it in a state from which it does not recover: it believes for ever that it runs.  So,
while a loop on such an engine has the main thread for its home, one function stands in for every handler of the
program: while the shield is *closed* it only notes the signal, and the handler is called when it is opened.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import collections
import contextlib
import sys
from collections.abc import Iterator
from typing import Any


class Shield:
    """Stands between the signals and the program's handlers.  On the main thread.

    Attributes:
        closed: whether handlers have to wait.
        pending: the signals that came meanwhile.
    """

    def __init__(self) -> None:
        self.closed = False
        self.pending: collections.deque[int] = collections.deque()
        self._handlers: dict[int, Any] = {}

    def __call__(self, signum: int, frame: object) -> None:
        """A signal has come."""
        if self.closed:
            self.pending.append(signum)
        else:
            self._call(signum, frame)

    def open(self) -> None:
        """Call the handlers that have waited.

        Raises:
            BaseException: what one of them raises; those behind it are called the next time.
        """
        self.closed = False
        while self.pending:
            self._call(self.pending.popleft(), sys._getframe(1))

    def _call(self, signum: int, frame: object) -> None:
        handler = self._handlers.get(signum)
        if handler is not None:
            handler(signum, frame)

    def signal(self, signum: int, handler: Any) -> Any:
        """As ``_signal.signal``."""
        if not callable(handler):
            before = _signal.signal(signum, handler)
            return self._handlers.pop(signum, None) if before is self else before
        known = self._handlers.get(signum)
        self._handlers[signum] = handler
        try:
            before = _signal.signal(signum, self)
        except BaseException:
            self._handlers[signum] = known
            raise
        return known if before is self else before

    def getsignal(self, signum: int) -> Any:
        """As ``_signal.getsignal``."""
        handler = _signal.getsignal(signum)
        return self._handlers.get(signum) if handler is self else handler

    @contextlib.contextmanager
    def up(self) -> Iterator[None]:
        """Stand in for all handlers, inside of the ``with`` statement."""
        try:
            for signum in _signal.valid_signals():
                handler = _signal.getsignal(signum)
                if callable(handler):
                    self.signal(signum, handler)
            yield
        finally:
            for signum, handler in self._handlers.items():
                if _signal.getsignal(signum) is self:
                    _signal.signal(signum, handler)
            self.open()
