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
from typing import TYPE_CHECKING, Any, ClassVar

from .shield import Shield

if TYPE_CHECKING:
    from .carrying import Carrying
    from .engines.handles import FdHandle


class Engine(asyncio.AbstractEventLoop):
    """What an engine gives to the loop that is laid over it."""

    engine_name: ClassVar[str]
    """What :attr:`Config.engine <hybridexec.Config.engine>` calls it."""

    claimable: ClassVar[bool]
    """Whether others may take the loop while one polls: what they change must be seen by the poll that is going on."""

    _closed = True  # until there is something to close: asyncio's finalizer asks, also after __init__ has raised

    callers: ClassVar[tuple[CodeType, ...]] = ()
    """Code of the engine whose frames call the program, if its poll does."""

    shield: Shield
    """On the main thread: what stands between the signals and their handlers."""

    def stopped(self) -> None:
        """The home, which holds the loop, is about to return from ``run_forever``."""

    if TYPE_CHECKING:
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

        def _check_closed(self) -> None: ...
        def _check_running(self) -> None: ...
        def _write_to_self(self) -> None: ...
        def _process_self_data(self, data: bytes) -> None: ...
        def _asyncgen_firstiter_hook(self, agen: Any) -> None: ...
        def _asyncgen_finalizer_hook(self, agen: Any) -> None: ...

        def select(self, timeout: float | None) -> Any:
            """Wait for events, for ``timeout`` seconds; None: for ever.  Any LWP, or the holder if not claimable."""

        def dispatch(self, found: Any) -> None:
            """Make ready what the events belong to.  The holder."""

        def has_input(self) -> bool:
            """Whether events may have come that nobody has polled for."""

        def put_back(self, handle: FdHandle) -> None:
            """Watch for a callback again that was in flight, if it is still registered.  The holder."""

        def unmake(self) -> None:
            """The loop's making has failed half way: what there is of it is closed, now or by its finalizer."""

        def abandon(self) -> None:
            """This process is a forked child: what is shared with the parent must not be touched any more."""
