"""What only the home can do: on behalf of whoever asks (rule 4).

CPython lets the main thread alone change signal handlers.  A step that runs on a spare and asks for it puts the call
into the home's mailbox and waits, as in any call that may block: the home does it as soon as it waits for the loop
itself; if it is blocked in a step of its own, the loop goes on meanwhile.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import collections
import contextlib
import os
import signal
import sys
import threading
from _thread import get_ident
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .detector.calls import Call, Site
from .lwp import Bell, current
from .shield import Shield
from .upcalls import Detection

if TYPE_CHECKING:
    from .carrying import Carrying


class _Letter:
    __slots__ = ("call", "done", "error", "result")

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = Bell()

    def serve(self) -> None:
        try:
            self.result = self.call()
        except BaseException as exc:
            self.error = exc
        self.done.ring()


class Mailbox:
    """The home's mailbox of one loop.  Thread-safe."""

    def __init__(self, carrying: Carrying) -> None:
        self._carrying = carrying
        self._process = os.getpid()
        self._letters: collections.deque[_Letter] = collections.deque()

    def at_home(self, call: Callable[[], Any]) -> Any:
        """Have the home do something, and wait for it.  Anybody but a spare of the loop does it himself.

        Returns:
            What the call returns.

        Raises:
            BaseException: what the call raises.
        """
        lwp = current.get(get_ident())
        carrying = self._carrying
        if lwp is None or lwp.carrying is not carrying or lwp is carrying.home or os.getpid() != self._process:
            return call()  # in a forked child, whose only thread is its main thread, asyncio asks before we know
        letter = _Letter(call)
        self._letters.append(letter)
        frame = sys._getframe(1)
        waiting = Call(Site(frame.f_code, frame.f_lasti), "the main thread's help", letter, Detection.DECLARED)
        carrying.reactions.call(lwp, waiting, False)
        try:
            carrying.mail()
            letter.done.wait()
        finally:
            carrying.reactions.over(lwp, waiting, raised=True)
        if letter.error is not None:
            raise letter.error
        return letter.result

    def serve(self) -> None:
        """Do what others have asked for.  On the home."""
        while self._letters:
            self._letters.popleft().serve()


class _Signal:
    """Stands in for the C module ``_signal`` inside ``signal``: carries ``signal.signal`` to the main thread."""

    def __init__(self, mailbox: Mailbox, shield: Shield | None) -> None:
        self._mailbox = mailbox
        self._set = _signal.signal if shield is None else shield.signal
        self.getsignal = _signal.getsignal if shield is None else shield.getsignal

    def __getattr__(self, name: str) -> Any:
        return getattr(_signal, name)

    def signal(self, signalnum: int, handler: Any, /) -> Any:
        """As ``_signal.signal``."""
        return self._mailbox.at_home(lambda: self._set(signalnum, handler))

    def set_wakeup_fd(self, fd: int, /, **options: Any) -> int:
        """As ``_signal.set_wakeup_fd``."""
        return int(self._mailbox.at_home(lambda: _signal.set_wakeup_fd(fd, **options)))


@contextlib.contextmanager
def main_thread(mailbox: Mailbox, waker: int, shield: Shield | None) -> Iterator[None]:
    """While a loop runs whose home is the main thread: signals end its poll, main-thread-only calls are carried there.

    A signal that comes between CPython's last look and the system call would else not end it; and where other threads
    want the interpreter, that can be a long moment.  If the program has a wake-up fd of its own, that one stays.

    Args:
        mailbox: the home's mailbox.
        waker: the file descriptor that ends the poll.
        shield: stands between the signals and their handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = _signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    if former != -1:
        _signal.set_wakeup_fd(former)
    stand_in = _Signal(mailbox, shield)
    module: Any = signal
    before = module._signal, module.set_wakeup_fd
    module._signal, module.set_wakeup_fd = stand_in, stand_in.set_wakeup_fd
    try:
        with contextlib.nullcontext() if shield is None else shield.up():
            yield
    finally:
        module._signal, module.set_wakeup_fd = before
        latter = _signal.set_wakeup_fd(-1)
        if latter != waker:
            _signal.set_wakeup_fd(latter)
