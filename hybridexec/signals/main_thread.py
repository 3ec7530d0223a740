"""The main thread, while it is a loop's home: what ``signal`` does there is done for steps on all LWPs.

A step on a spare that calls ``signal.pause`` waits until a handler has been called on the main thread: the system
would have it wait for a signal of its own thread.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import contextlib
import signal
from collections.abc import Collection, Iterator
from typing import Any

from ..platform.patches import Patch, put_on
from ..platform.threads import on_main_thread, os_ident
from ..protocol.lwp import Bell, Region, current
from .mailbox import Mailbox
from .nudge import Nudges
from .shield import Shield


class _Signal:
    """Stands in for the C module ``_signal`` inside ``signal``: carries ``signal.signal`` to the main thread."""

    def __init__(self, mailbox: Mailbox, shield: Shield, waker: int, handled: Collection[int]) -> None:
        self._mailbox = mailbox
        self._shield = shield
        self._waker = waker
        self._handled = handled
        self.getsignal = shield.getsignal

    def __getattr__(self, name: str) -> Any:
        return getattr(_signal, name)

    def signal(self, signalnum: int, handler: Any, /) -> Any:
        """As ``_signal.signal``."""
        return self._mailbox.at_home(lambda: self._shield.signal(signalnum, handler))

    def set_wakeup_fd(self, fd: int, /, **options: Any) -> int:
        """As ``_signal.set_wakeup_fd``.  Ours, which is there when there is no other, is shown to nobody: asyncio has
        one only while its loop has signal handlers."""
        return int(self._mailbox.at_home(lambda: self._set_wakeup_fd(fd, options)))

    def _set_wakeup_fd(self, fd: int, options: dict[str, Any]) -> int:
        if fd == -1 and not self._mailbox.is_forked():  # asyncio takes a child off its parent's
            former = _signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        else:
            former = _signal.set_wakeup_fd(fd, **options)
        return -1 if former == self._waker and not self._handled else former

    def pause(self) -> None:
        """As ``_signal.pause``: in a step, until a handler has been called; and none of ours ends it."""
        lwp = current.get(os_ident())
        if lwp is None or lwp.handle is None or lwp.region is Region.AWAY:
            _signal.pause()
            return
        bell = Bell()
        self._shield.waiting.add(bell)
        try:
            self._mailbox.wait(lwp, "signal.pause", bell.wait, sure=True)
        finally:
            self._shield.waiting.discard(bell)
        lwp.watch.reactions.interrupt(lwp)


@contextlib.contextmanager
def main_thread(
    mailbox: Mailbox, nudges: Nudges, waker: int, shield: Shield, handled: Collection[int]
) -> Iterator[None]:
    """While a loop runs whose home is the main thread: signals end its poll, main-thread-only calls are carried there.

    A signal that comes between CPython's last look and the system call would else not end it; and where other threads
    want the interpreter, that can be a long moment.  If the program has a wake-up fd of its own, that one stays.  So
    does the loop's when it stops, if it has signal handlers: what comes before the next run is handled there.

    Args:
        mailbox: the home's mailbox.
        nudges: what the home is told of signals by, while it is blocked.
        waker: the file descriptor that ends the poll.
        shield: stands between the signals and their handlers.
        handled: the signals that the loop has handlers for, kept up to date.
    """
    if not on_main_thread():
        yield
        return
    stand_in = _Signal(mailbox, shield, waker, handled)
    module: Any = signal
    replaced = {"_signal": stand_in, "set_wakeup_fd": stand_in.set_wakeup_fd}
    if hasattr(module, "pause"):
        replaced["pause"] = stand_in.pause
    patches: list[Patch] = []
    with shield.up():
        try:
            former = _signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
            if former != -1:
                _signal.set_wakeup_fd(former)
            patches += put_on(module, **replaced)
            with nudges.ready():
                yield
        finally:
            for patch in patches:
                patch.take_off()
            latter = _signal.set_wakeup_fd(-1)
            if latter != waker or handled:
                _signal.set_wakeup_fd(latter)
