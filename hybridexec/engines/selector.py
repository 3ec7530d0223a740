"""The selector engine: asyncio's own event loop on selectors."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any

from ..base import Engine
from ..identity import os_ident
from ..polling import poll_of
from .handles import Step

READ_SIZE = 64 * 1024
"""Bytes that a transport reads at a time.  asyncio's 256 KiB is where glibc may begin to map and unmap memory for each
read, which costs three system calls more."""


class SelectorEngine(asyncio.SelectorEventLoop, Engine):
    """``asyncio.SelectorEventLoop``; it can be claimed while it polls."""

    claimable = True

    if TYPE_CHECKING:
        _selector: Any

        def _process_events(self, event_list: Any) -> None: ...
        def _remove_reader(self, fd: Any) -> bool: ...
        def _remove_writer(self, fd: Any) -> bool: ...

    def __init__(self) -> None:
        super().__init__()
        poll = poll_of(self)
        self.select = poll.wait  # type: ignore[method-assign]
        self.dispatch = poll.dispatch  # type: ignore[method-assign]

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Arrange for a callback to be called in the next turn."""
        if self._debug or self._closed:
            handle = super().call_soon(callback, *args, context=context)
        else:
            handle = Step(callback, args, self, context)
            self._ready.append(handle)
        ident = self._carrying.holder_ident
        if ident is not None and ident != os_ident():
            # A signal handler, or a step that is without the loop: whoever polls has to look.
            self._write_to_self()
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Like :meth:`call_soon`, from any thread."""
        if self._debug or self._closed:
            return super().call_soon_threadsafe(callback, *args, context=context)
        # Which wakes who polls, unless the caller holds the loop.
        return self.call_soon(callback, *args, context=context)

    def _make_socket_transport(self, *args: Any, **kwargs: Any) -> Any:
        transport = super()._make_socket_transport(*args, **kwargs)  # type: ignore[misc]
        transport.max_size = READ_SIZE
        return transport

    def has_input(self) -> bool:
        """Whether a file descriptor is registered that may have become ready."""
        return len(self._selector.get_map()) > 1

    def abandon(self) -> None:
        """The kernel's side of the selector is shared with the parent: nothing may be removed from it here."""
        self._selector.close()
        self._selector = selectors.DefaultSelector()
