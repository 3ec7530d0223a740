"""Engine: what a loop's engine gives it, and what the engines are made of.

An engine is an event loop of somebody else's (asyncio's, uvloop's) that ``HybridLoop`` is laid over: ``HybridLoop``
decides which thread runs what, the engine polls and carries the transports.  This lists what is taken for granted about
it: the interface of our own, and the private parts of asyncio's loop that this package builds on, which have been there
under these names from CPython 3.12 to 3.15 (the tests run on each of these).
"""

from __future__ import annotations

import asyncio
import collections
import socket
from types import CodeType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..signals.shield import Shield

if TYPE_CHECKING:
    from ..protocol.carrying import Carrying
    from .handles import FdHandle


class Poll(Protocol):
    """How an engine polls.

    Waiting and handling are two things: an LWP that waits may lose the loop meanwhile, and drops its events.
    """

    def wait(self, timeout: float | None) -> Any:
        """Wait for events, for ``timeout`` seconds; None: forever.  Any LWP, or the holder if not claimable."""

    def dispatch(self, found: Any) -> None:
        """Make ready what the events belong to.  The holder."""

    def has_input(self) -> bool:
        """Whether events may have come that nobody has polled for."""


class Engine(asyncio.AbstractEventLoop):
    """What an engine gives to the loop that is laid over it."""

    engine_name: ClassVar[str]
    """What :attr:`Config.engine <hybridexec.Config.engine>` calls it."""

    _claimable: ClassVar[bool]
    """Whether others may take the loop while one polls: what they change must be seen by the poll that is going on."""

    _compiled: ClassVar[bool] = False
    """Whether its queue, its timers and its handles are the compiled core's."""

    _closed = True  # until there is something to close: asyncio's finalizer asks, also after __init__ has raised

    _callers: ClassVar[tuple[CodeType, ...]] = ()
    """Code of the engine whose frames call the program, if its poll does."""

    _shield: Shield
    """On the main thread: what stands between the signals and their handlers."""

    def _send_queued(self) -> None:
        """Send what steps have written, if the engine has kept that.  It calls nobody.  Any thread."""

    def _run_ends(self) -> None:
        """The home, which holds the loop, is about to return from ``run_forever``."""

    if TYPE_CHECKING:
        _poll: Poll
        _carrying: Carrying
        _ready: collections.deque[Any]
        _scheduled: list[Any]
        _timer_cancelled_count: int
        _clock_resolution: float
        _debug: bool
        _stopping: bool
        _thread_id: int | None
        _ssock: socket.socket
        _csock: socket.socket
        _current_handle: asyncio.Handle | None
        _signal_handlers: dict[int, asyncio.Handle]

        slow_callback_duration: float

        def _fail(self, exc: BaseException) -> None: ...
        def _put_off(self, exc: BaseException) -> None: ...
        def _check_closed(self) -> None: ...
        def _check_running(self) -> None: ...
        def _write_to_self(self) -> None: ...
        def _process_self_data(self, data: bytes) -> None: ...
        def _asyncgen_firstiter_hook(self, agen: Any) -> None: ...
        def _asyncgen_finalizer_hook(self, agen: Any) -> None: ...

        def _put_back(self, handle: FdHandle) -> None:
            """Watch for a callback again that was in flight, if it is still registered.  The holder."""

        def _unmake(self) -> None:
            """The loop's making has failed half way: what there is of it is closed, now or by its finalizer."""

        def _abandon(self) -> None:
            """This process is a forked child: what is shared with the parent must not be touched any more."""
