"""Threads: the OS threads of this package.  Starting one cannot hang, and its end cannot go unseen.

``Thread.start()`` waits until the new thread has said that it runs.  A thread that raises before that (it is refused
memory, or a callback of ``sys.monitoring`` fails in it) never says so, and whoever has started it waits for ever.  And
a thread that others rely on may end by an exception at any place.  Both are closed here, at the bottom of the thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


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

    def _bootstrap(self) -> None:
        # What the interpreter calls first, on 3.12 to 3.15.
        try:
            super()._bootstrap()  # type: ignore[misc]
        finally:
            if not self._started.is_set():  # type: ignore[attr-defined]
                self._give_up()
            ended, self._when_ended = self._when_ended, _nothing  # it refers to the thread: no cycle is left behind
            ended()

    def _give_up(self) -> None:
        """It ends before it has begun: nobody shall wait for it."""
        threading._limbo.pop(self, None)  # type: ignore[attr-defined]
        if hasattr(self, "_is_stopped"):  # before 3.13; what else says so was not made yet
            self._is_stopped = True
        self._started.set()  # type: ignore[attr-defined]


def _nothing() -> None: ...
