"""Watch: what the detector keeps with each LWP; and whom it tells what it sees."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Protocol

from .._core.fields import WatchFields
from ..platform import machine, memory
from ..protocol.carrying import Carrying
from ..protocol.handler import Handler
from ..protocol.lwp import LWP

if TYPE_CHECKING:
    from .calls import Call, Site
    from .catalogue import Binds
    from .trap import Trap


class Responder(Protocol):
    """What is done about what the detector sees, for one loop (``reactions/reactions.py``)."""

    loop: asyncio.AbstractEventLoop
    carrying: Carrying
    runner_codes: frozenset[CodeType]
    """The code whose frames call steps."""
    threshold: float
    preempt: float | None

    def call(self, lwp: LWP, call: Call, sure: bool) -> None:
        """A step begins a call that blocks (``sure``), or may block."""

    def over(self, lwp: LWP, call: Call, *, raised: bool) -> None:
        """A declared call has returned, or raised."""

    def binds(self, lwp: LWP, binds: Binds, argument: Any, site: Site) -> None:
        """A step calls something that ties it to its LWP."""

    def trapped(self, lwp: LWP, trap: Trap, code: CodeType) -> None:
        """A trapped thread resumes."""

    def stranded(self, lwp: LWP) -> None:
        """A step resumes with an exception, and without the loop."""

    def lasts(self) -> None:
        """A step lasts: the sampler sees it for the second time."""

    def overdue(self, lwp: LWP, call: Call, frame: FrameType | None) -> None:
        """A marked call has lasted for the threshold."""

    def discovered(self, trap: Trap, frame: FrameType | None) -> bool:
        """A trapped step stands in a call.  Returns whether the trap is needed any longer."""

    def handler_overdue(self, home: LWP, handler: Handler, call: Call, frame: FrameType) -> None:
        """A signal handler of the home's blocks."""

    def held_gil(self, lwp: LWP, call: Call, duration: float) -> None:
        """Nothing in the process could run for so long."""

    def may_preempt(self, lwp: LWP, frame: FrameType) -> bool:
        """Whether a step may be interrupted where it stands."""


class Watch(WatchFields):
    """What the detector keeps with one LWP.

    Args:
        reactions: whom it tells what it sees of the LWP's steps.

    Attributes:
        call: the declared call that its step is in.
        trap: the trap that waits for its step.
        began: when its step began; kept only if the loop preempts.
        native: what the system calls its thread.
        clock: the clock of its thread's CPU time.
        thread_state: the address of the interpreter's structure for its thread, while that is sure to live.
    """

    call: Call | None
    reactions: Responder
    trap: Trap | None

    __slots__ = ("_ident", "began", "clock", "native", "thread_state")

    def __init__(self, reactions: Responder) -> None:
        self.reactions = reactions
        self.call = None
        self.trap = None
        self.began = 0.0
        self.native = 0
        self.clock: int | None = None
        self.thread_state = 0
        self._ident = 0

    def settle(self, ident: int) -> None:
        """The calling thread is the LWP's."""
        self._ident = ident
        self.native = threading.get_native_id()
        self.clock = machine.own_clock()
        self.thread_state = memory.thread_state()

    def release(self) -> None:
        """The calling thread is no longer the LWP's."""
        self.thread_state = 0

    def interrupted(self) -> None:
        """A signal handler interrupts its step: it does not stand in its call any more.  Called under the mutex."""
        if self.trap is not None and self.trap.call is not None:
            self.trap.sprung = True

    def in_call(self, call: Call | None) -> Callable[[], bool]:
        """Whether its step is in a call; asked later, under the mutex."""
        return lambda: self.call is call

    def frame(self) -> FrameType | None:
        """The innermost frame of its thread; None if that runs no Python code, or has ended.  Any thread may ask.

        With the GIL it asks for this one thread.  ``sys._current_frames()`` goes through the threads of all
        interpreters, and those that have a GIL of their own run meanwhile: that corrupts memory.
        """
        if not memory.GIL:
            return sys._current_frames().get(self._ident)
        try:
            # In one go, as far as the GIL is concerned: the thread cannot end between the two.
            return memory.frame_of(state) if (state := self.thread_state) else None
        except ValueError:  # how ctypes says that there is none
            return None
