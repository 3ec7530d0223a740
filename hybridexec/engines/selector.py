"""The selector engine: asyncio's own event loop on selectors.

*Readers and writers* are kept in two tables of its own, by number; the selector knows no more than which events to
watch for.  A callback that is queued, or that blocks, is not called again: if a poll finds its descriptor ready all the
same, and finds nothing else to do, its event is taken out of the selector (or each poll would return at once), until it
has its turn, or is over.  Then it is put back, if it is still the one in the table (``FdHandle``).  A descriptor of
which nothing is left to watch for leaves the selector altogether, since the kernel tells of errors and hang-ups
whatever it was asked for.

epoll and kqueue show all this to a thread that waits meanwhile.  ``select`` and ``poll`` do not: with these the loop
cannot be claimed while it is polled, so nobody can change anything during a poll.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import weakref
from asyncio.base_events import BaseEventLoop
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any

from ..following.conversations import told
from ..platform.threads import os_ident
from .base import Engine
from .epoll import EpollPoll, SelectorPoll, poll_of
from .handles import FdHandle, FdState, Step, ThreadSafeStep, made_by_caller, number_of

_Base: Any = BaseEventLoop

READ_SIZE = 64 * 1024
"""Bytes that a transport reads at a time.  asyncio's 256 KiB is where glibc may begin to map and unmap memory for each
read, which costs three system calls more."""


class SelectorEngine(asyncio.SelectorEventLoop, Engine):
    """``asyncio.SelectorEventLoop``."""

    engine_name = "selector"
    _claimable = selectors.DefaultSelector.__name__ in ("EpollSelector", "KqueueSelector")

    if TYPE_CHECKING:
        _selector: Any
        _poll: EpollPoll | SelectorPoll

    # As they are in the base of all loops: nest_asyncio puts others into the class between.
    run_until_complete = _Base.run_until_complete
    _check_running = _Base._check_running

    def __init__(self) -> None:
        self._readers: dict[int, FdHandle] = {}
        self._writers: dict[int, FdHandle] = {}
        super().__init__()
        self._poll: Any = self._make_poll()

    def close(self) -> None:
        """Close the loop; nothing of its own refers to it any more."""
        super().close()
        self._readers.clear()
        self._writers.clear()
        self._poll.loosen(weakref.proxy(self))

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Arrange for a callback to be called in the next turn."""
        if self._debug or self._closed:
            handle = made_by_caller(super().call_soon(callback, *args, context=context))
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
            return made_by_caller(super().call_soon_threadsafe(callback, *args, context=context))
        handle: asyncio.Handle = ThreadSafeStep(callback, args, self, context)
        self._ready.append(handle)
        ident = self._carrying.holder_ident
        if ident is not None and ident != os_ident():
            self._write_to_self()
        return handle

    # ---------------------------------------------------------------- transports

    def _make_socket_transport(self, sock: Any, protocol: Any, waiter: Any = None, **kwargs: Any) -> Any:
        transport = self._new_socket_transport(sock, protocol, **kwargs)
        transport.max_size = READ_SIZE
        return self._tells(waiter, transport)

    def _make_poll(self) -> Any:
        return poll_of(self)

    def _new_socket_transport(self, sock: Any, protocol: Any, **kwargs: Any) -> Any:
        return super()._make_socket_transport(sock, protocol, **kwargs)  # type: ignore[misc]

    def _make_datagram_transport(
        self, sock: Any, protocol: Any, address: Any = None, waiter: Any = None, extra: Any = None
    ) -> Any:
        return self._tells(waiter, super()._make_datagram_transport(sock, protocol, address, None, extra))  # type: ignore[misc]

    def _make_read_pipe_transport(self, pipe: Any, protocol: Any, waiter: Any = None, extra: Any = None) -> Any:
        return self._tells(waiter, super()._make_read_pipe_transport(pipe, protocol, None, extra))  # type: ignore[misc]

    def _make_write_pipe_transport(self, pipe: Any, protocol: Any, waiter: Any = None, extra: Any = None) -> Any:
        return self._tells(waiter, super()._make_write_pipe_transport(pipe, protocol, None, extra))  # type: ignore[misc]

    async def _make_subprocess_transport(self, *args: Any, **kwargs: Any) -> Any:
        transport: Any = await super()._make_subprocess_transport(*args, **kwargs)  # type: ignore[misc]
        # connection_made is on its way, and asyncio's waiter may have overtaken it: if it blocks, or if a call in there
        # has, so that the waiter was done before anybody awaited it.
        waiter = self.create_future()
        self.call_soon(told, waiter, transport)
        try:
            await waiter
        except BaseException:  # cancelled: nobody else knows of the process
            transport.close()
            await transport._wait()
            raise
        return transport

    def _tells(self, waiter: Any, transport: Any) -> Any:
        """Have a transport that was just made tell its waiter when ``connection_made`` is over, as it would itself."""
        if waiter is not None:
            self.call_soon(told, waiter, transport)
        return transport

    def _unmake(self) -> None:
        """Its making has failed half way: there is nothing to close later."""
        self._closed = True
        if hasattr(self, "_selector"):
            self._selector.close()

    def _abandon(self) -> None:
        """The kernel's side of the selector is shared with the parent: nothing may be removed from it here."""
        self._selector.close()
        self._selector = selectors.DefaultSelector()
        self._readers.clear()
        self._writers.clear()

    # ---------------------------------------------------------------- readers and writers

    # Since 3.15 transports give a context.

    def _add_reader(
        self, fd: Any, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> FdHandle:
        return self._watch(self._readers, fd, callback, args, context)

    def _add_writer(
        self, fd: Any, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> FdHandle:
        return self._watch(self._writers, fd, callback, args, context)

    def _remove_reader(self, fd: Any) -> bool:
        return self._unwatch(self._readers, fd)

    def _remove_writer(self, fd: Any) -> bool:
        return self._unwatch(self._writers, fd)

    def _watch(
        self,
        table: dict[int, FdHandle],
        fd: Any,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
    ) -> FdHandle:
        self._check_closed()
        number = number_of(fd)
        handle = FdHandle(table, fd, number, callback, args, self, context)
        former = table.get(number)
        table[number] = handle
        try:
            self._tell_selector(number)
        except BaseException:
            if former is None:
                del table[number]
            else:
                table[number] = former
            raise
        if former is not None:
            former.cancel()
        return handle

    def _unwatch(self, table: dict[int, FdHandle], fd: Any) -> bool:
        if self._closed:
            return False
        try:
            number = number_of(fd)
        except ValueError:  # closed already: then its object is known, as in asyncio
            number = next((number for number, handle in table.items() if handle.fd is fd), -1)
            if number < 0:
                raise
        handle = table.pop(number, None)
        if handle is None:
            return False
        self._tell_selector(number)
        handle.cancel()
        return True

    def _tell_selector(self, number: int) -> None:
        """What to watch a descriptor for: all that is registered, less what is taken out."""
        wanted = 0
        for table, event in ((self._readers, selectors.EVENT_READ), (self._writers, selectors.EVENT_WRITE)):
            handle = table.get(number)
            if handle is not None and handle.state is not FdState.TAKEN_OUT:
                wanted |= event
        key = self._selector.get_map().get(number)
        if key is None:
            if wanted:
                self._selector.register(number, wanted)
        elif not wanted:
            self._selector.unregister(number)
        elif wanted != key.events:
            self._selector.modify(number, wanted)

    def _found_again(self, handle: FdHandle) -> None:
        """A poll has found ready what is on its way already.  The holder."""
        if handle._cancelled:
            self._unwatch(handle.table, handle.number)
        elif handle.state is FdState.BUSY and not self._ready and handle.number != self._ssock.fileno():
            # Not while there is work, which may be that very callback.  Nor the self-pipe: by it polls are ended.
            handle.state = FdState.TAKEN_OUT
            self._tell_selector(handle.number)

    def _put_back(self, handle: FdHandle) -> None:
        """Watch for a callback again that was in flight, if it is still registered.  The holder."""
        was, handle.state = handle.state, FdState.IDLE
        if was is FdState.TAKEN_OUT and handle.is_registered():
            with contextlib.suppress(OSError):  # it was closed without being removed: nothing comes from it any more
                self._tell_selector(handle.number)
