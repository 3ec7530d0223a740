"""What uvloop lacks of asyncio's methods, by asyncio's own code: datagrams by ``sock_*``, and files to sockets.

asyncio's code for sockets needs readers and writers, and these uvloop has.  Its code for transports looks into them,
which uvloop's are not made for: so a protocol of our own takes the place of the program's while a file is sent.
"""

from __future__ import annotations

import asyncio
from asyncio import unix_events
from asyncio.base_events import BaseEventLoop
from asyncio.selector_events import BaseSelectorEventLoop
from typing import TYPE_CHECKING, Any

from ..observing.log import told

_Base: Any = BaseEventLoop
_SelectorBase: Any = BaseSelectorEventLoop
_UnixLoop: Any = unix_events._UnixSelectorEventLoop

_BLOCK = 16384
"""Bytes of a file that are read at a time, as by asyncio."""


class Lacking:
    """These methods, for an engine whose readers and writers are asyncio's."""

    if TYPE_CHECKING:

        def add_reader(self, fd: Any, callback: Any, *args: Any) -> None: ...
        def add_writer(self, fd: Any, callback: Any, *args: Any) -> None: ...

    sock_recvfrom = _SelectorBase.sock_recvfrom
    _sock_recvfrom = _SelectorBase._sock_recvfrom
    sock_recvfrom_into = _SelectorBase.sock_recvfrom_into
    _sock_recvfrom_into = _SelectorBase._sock_recvfrom_into
    sock_sendto = _SelectorBase.sock_sendto
    _sock_sendto = _SelectorBase._sock_sendto
    _sock_read_done = _SelectorBase._sock_read_done
    _sock_write_done = _SelectorBase._sock_write_done

    sock_sendfile = _Base.sock_sendfile
    _check_sendfile_params = _Base._check_sendfile_params
    _sock_sendfile_fallback = _Base._sock_sendfile_fallback
    _sock_sendfile_native = _UnixLoop._sock_sendfile_native
    _sock_sendfile_native_impl = _UnixLoop._sock_sendfile_native_impl
    _sock_sendfile_update_filepos = _UnixLoop._sock_sendfile_update_filepos
    _sock_add_cancellation_callback = _UnixLoop._sock_add_cancellation_callback

    def _ensure_fd_no_transport(self, fd: int) -> None:
        """Nothing: uvloop looks when it is told to watch the descriptor."""

    async def sendfile(
        self, transport: Any, file: Any, offset: int = 0, count: int | None = None, *, fallback: bool = True
    ) -> int:
        """As asyncio's where the system has no way to do it; uvloop's transports do not let theirs be used."""
        if transport.is_closing():
            raise RuntimeError("Transport is closing")
        if not hasattr(transport, "write"):
            raise RuntimeError(f"sendfile is not supported for transport {told(transport)}")
        if not fallback:
            raise asyncio.SendfileNotAvailableError(
                f"fallback is disabled and native sendfile is not supported for transport {told(transport)}"
            )
        if offset:
            file.seek(offset)
        sent = 0
        sending = _Sending(transport)
        try:
            while count is None or sent < count:
                size = _BLOCK if count is None else min(_BLOCK, count - sent)
                data = await self.run_in_executor(None, file.read, size)  # type: ignore[attr-defined]
                if not data:
                    break
                await sending.drain()
                transport.write(data)
                sent += len(data)
            return sent
        finally:
            if sent > 0 and hasattr(file, "seek"):
                file.seek(offset + sent)
            sending.restore()


class _Sending(asyncio.Protocol):
    """Stands in for a transport's protocol while a file is sent.  What it hears, it passes on."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._protocol = transport.get_protocol()
        self._lost: BaseException | None = None
        self._drained = asyncio.Event()
        self._reads = transport.is_reading()
        transport.pause_reading()
        transport.set_protocol(self)

    async def drain(self) -> None:
        """Wait until the transport takes more.

        Raises:
            ConnectionError: it never will.
        """
        while not self._transport.is_closing() and self._lost is None:
            # Whether it had told its protocol to pause before, it does not say; with so much in it, it has.
            _, most = self._transport.get_write_buffer_limits()
            if self._transport.get_write_buffer_size() <= most:
                return
            self._drained.clear()
            await self._drained.wait()
        raise self._lost or ConnectionError("Connection closed by peer")

    def restore(self) -> None:
        """The transport has its protocol again."""
        self._transport.set_protocol(self._protocol)
        if self._reads and not self._transport.is_closing():
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """The transport is full."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """It is not full any more."""
        self._drained.set()
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._lost = exc or ConnectionError("Connection is closed by peer")
        self._drained.set()
        self._protocol.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """It does not read."""
        raise RuntimeError("Invalid state: reading should be paused")

    def eof_received(self) -> None:
        """The same."""
        raise RuntimeError("Invalid state: reading should be paused")
