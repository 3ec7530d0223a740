"""Threads: the OS threads of this package.  Starting one cannot hang, and its end cannot go unseen.

``Thread.start()`` waits until the new thread has said that it runs.  A thread that raises before that (it is refused
memory, or a callback of ``sys.monitoring`` fails in it) never says so, and whoever has started it waits for ever.  And
a thread that others rely on may end by an exception at any place.  Both are closed here, at the bottom of the thread.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable

PATIENCE = 1.0
"""Seconds after which a thread that has not begun is given up.  If it comes all the same, it finds that out."""


os_ident = _thread.get_ident
"""The identity of the calling OS thread; ``threading.get_ident`` may name another one (``following/identity.py``)."""


def os_thread() -> threading.Thread:
    """The ``Thread`` object of the calling OS thread."""
    return threading._active.get(os_ident()) or threading.current_thread()  # type: ignore[attr-defined]


def on_main_thread() -> bool:
    """Whether the calling OS thread is the main thread."""
    return os_ident() == threading.main_thread().ident


class OsThread(threading.Thread):
    """A daemon thread.

    Args:
        target: what it runs.
        name: its name.
        ended: called on the thread when it ends, however that came about; also if ``target`` was never called.
    """

    def __init__(self, target: Callable[[], None], name: str, ended: Callable[[], None]) -> None:
        super().__init__(target=target, name=name, daemon=True)
        self._when_ended = ended
        self._started = _Beginning()  # which start() waits for

    def start(self) -> None:
        """Start it.

        Raises:
            RuntimeError: the system has no thread to give, or what it has given does not come.
        """
        super().start()
        if not self._started.is_set():
            raise RuntimeError("a new thread does not come")

    def _bootstrap(self) -> None:
        # What the interpreter calls first, on 3.12 to 3.15.
        try:
            super()._bootstrap()  # type: ignore[misc]
        finally:
            if not self._started.is_set():
                self._give_up()
            ended, self._when_ended = self._when_ended, _nothing  # it refers to the thread: no cycle is left behind
            ended()

    def _give_up(self) -> None:
        """It ends before it has begun: nobody shall wait for it."""
        threading._limbo.pop(self, None)  # type: ignore[attr-defined]
        if hasattr(self, "_is_stopped"):  # before 3.13; what else says so was not made yet
            self._is_stopped = True
        self._started.set()


class _Beginning(threading.Event):
    """What tells that a thread has begun: nobody waits for it for ever."""

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(PATIENCE if timeout is None else timeout)


def _nothing() -> None: ...
