"""What only the home can do: on behalf of whoever asks (rule 4).

CPython calls signal handlers on the main thread alone, between two instructions, or when a signal ends the system
call that it is in.  One that comes before that call has begun does neither, and a home whose step has just lost the
loop waits for the interpreter right there.  So when the wake-up fd tells of a signal and the home is blocked, it is
*nudged*: sent a signal that means nothing (SIGURG, as Go's runtime does), until the handler of that one has been
called, and with it all others.  So is a home that polls, if another LWP reads that fd: it may be empty again before
the home's poll has begun.  While a step computes nobody reads it; then the sampler looks at it.  A home whose step has
something to raise that was put off (``shield.py``) is nudged, too.

CPython also lets the main thread alone change signal handlers.  A step that runs on a spare and asks for it puts the
call into the home's mailbox and waits, as in any call that may block: the home does it as soon as it waits for the loop
itself.  If it is blocked in a step of its own for longer, it is nudged, and does it in the middle of that; if that
cannot be, the loop goes on meanwhile.

A step on a spare that calls ``signal.pause`` waits until a handler has been called on the main thread: the system
would have it wait for a signal of its own thread.

On asyncio what a handler raises (a second Ctrl-C) breaks off the call that the main task is blocked in.  CPython breaks
calls off on the main thread alone: elsewhere they are taken up again after any signal, and an exception that another
thread sends (``PyThreadState_SetAsyncExc``) waits for their end.  So if the main task is blocked on a spare, and the
home has no step of its own, the exception is *passed on*: it comes up in the main task when that call is over.  The log
says what is waited for.  If another one comes before that, it is taken back, and both come out of the run.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import collections
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Collection, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from .detector.calls import Call, Site, excluded, own
from .identity import on_main_thread, os_ident
from .lwp import LWP, Bell, LwpState, Region, current
from .shield import Shield
from .tasks import task_of
from .upcalls import Detection

if TYPE_CHECKING:
    from .carrying import Carrying


NUDGE_PAUSE = 0.02
"""Seconds between two nudges."""

PATIENCE = 0.1
"""Seconds that a blocked home has to serve by itself, before it is nudged for that: a signal ends calls of C code
that does not take them up again, as CPython does."""

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
            if numbers.translate(None, _NO_SIGNALS):
                self._due = ANSWERS
        if self._due > 0:
            self.remind()

    def came(self, numbers: bytes) -> None:
        """The wake-up fd has told of signals."""
        self._peeked = 0
        if numbers.translate(None, _NO_SIGNALS):
            self._due = ANSWERS
            if not self._nudging:
                self._nudge()

    def _nudge(self) -> None:
        home = self._carrying.home
        self._nudging = self._mine and self._due > 0 and home is not None and self._may_miss(home)
        if self._nudging and home is not None and _NUDGE is not None:
            signal.pthread_kill(home.ident, _NUDGE)
            self._call_later(NUDGE_PAUSE, self._nudge)

    def _may_miss(self, home: LWP) -> bool:
        """Whether a home may sit in a system call that no signal ends any more: in a step's; or in the poll, if the
        holder, which asks, has emptied the wake-up fd before that began."""
        return home.state is LwpState.BLOCKED or (home.state is LwpState.POLLING and self._carrying.holder is not home)

    def remind(self) -> None:
        """Nudge a home whose step has to raise what was put off, to call a handler, or to serve.

        Who asks does so until that is done.
        """
        home = self._carrying.home
        if self._mine and home is not None and _NUDGE is not None:
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
            self._carrying.reactions.interrupt(home)


PASSED_ON = (
    "%s: the main task is blocked where no signal can break its call off, and gets it when that call is over; "
    "the next one ends the run\n  %s: %s"
)
GIVEN_UP = "%s: the run ends; who waits for its tasks waits for the main task, too\n  %s: %s"


def blocked_main(carrying: Carrying, main: object) -> LWP | None:
    """The LWP whose step is the main task's, if that is without the loop.  The home, which holds it, asks.

    Args:
        carrying: who carries the loop.
        main: the main task, or its coroutine.
    """
    with carrying.mutex:
        for lwp in carrying.detached:
            task = task_of(lwp)
            if task is not None and main in (task, task.get_coro()):
                return lwp
    return None


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
                self._carrying.reactions.call(lwp, waiting, sure)
            finally:
                lwp.region = region
        try:
            waits()
        finally:
            if not away:
                self._carrying.reactions.over(lwp, waiting, raised=True)

    def _await(self, letter: _Letter) -> None:
        self._carrying.mail()
        home = self._carrying.home
        patience = PATIENCE
        while not letter.done.wait(patience):
            patience = NUDGE_PAUSE
            if home is not None and home.state is LwpState.BLOCKED:
                self._nudge()
            elif self._letters:
                self._carrying.mail()  # an exception may have kept the home from serving

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
        lwp.carrying.reactions.interrupt(lwp)


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
    before = {name: getattr(module, name) for name in replaced}
    with shield.up():
        try:
            former = _signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
            if former != -1:
                _signal.set_wakeup_fd(former)
            vars(module).update(replaced)
            with nudges.ready():
                yield
        finally:
            vars(module).update(before)
            latter = _signal.set_wakeup_fd(-1)
            if latter != waker or handled:
                _signal.set_wakeup_fd(latter)
