"""The native engine: the selector engine with the hot part compiled (``_core/``)."""

from __future__ import annotations

import _socket
import sys
import weakref
from asyncio import BufferedProtocol, TimerHandle, format_helpers
from asyncio.selector_events import _SelectorSocketTransport  # type: ignore[attr-defined]
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any

from .._core import compiled
from .epoll import EpollPoll, OfSelector, SelectorPoll, poll_of
from .handles import FdState
from .selector import SelectorEngine

if TYPE_CHECKING or compiled is None:
    _LoopFields: Any = object
    _Poll: Any = object
    _StreamFields: Any = _SelectorSocketTransport
else:
    _LoopFields, _Poll, _StreamFields = compiled.LoopFields, compiled.Poll, compiled.StreamFields


class StreamTransport(_StreamFields):  # type: ignore[misc]
    """asyncio's transport of a stream socket; what is compiled reads and writes while nothing is the matter."""

    def set_protocol(self, protocol: Any) -> None:
        """As asyncio's."""
        self._is_buffered = isinstance(protocol, BufferedProtocol)
        super().set_protocol(protocol)

    def _left_over(self, queued: list[bytes], sent: int) -> None:
        """Not all of what was written could be sent: keep the rest until the socket is writable.

        Args:
            queued: what was written, without what was sent whole.
            sent: how many bytes of the first were.
        """
        watch = getattr(self, "_add_writer", None) or self._loop._add_writer  # since 3.15 it gives the context
        watch(self._sock_fd, self._write_ready)
        queued[0] = memoryview(queued[0])[sent:]  # type: ignore[call-overload]
        self._buffer.extend(queued)
        if hasattr(self, "_buffer_size"):  # since 3.15 it is counted
            self._buffer_size += sum(map(len, queued))
        self._maybe_pause_protocol()

    # Whatever else is done with the transport finds sent what was written.

    def writelines(self, list_of_data: Any) -> None:
        """As asyncio's."""
        self._flush()
        super().writelines(list_of_data)

    def write_eof(self) -> None:
        """As asyncio's."""
        self._flush()
        super().write_eof()

    def close(self) -> None:
        """As asyncio's."""
        self._flush()
        super().close()

    def _force_close(self, exc: BaseException | None) -> None:
        if exc is None:
            self._flush()
        else:
            self._send_last()  # another error would come before this one
        super()._force_close(exc)

    def get_extra_info(self, name: str, *default: Any, **named: Any) -> Any:
        """As asyncio's."""
        if name == "socket":
            self._flush()  # the program may do with it what it likes
        return super().get_extra_info(name, *default, **named)

    def get_write_buffer_size(self) -> int:
        """As asyncio's."""
        self._flush()
        return super().get_write_buffer_size()  # type: ignore[no-any-return]

    def _make_empty_waiter(self) -> Any:
        self._flush()
        return super()._make_empty_waiter()


class NativePoll(_Poll, OfSelector):  # type: ignore[misc]
    """The compiled poll."""


def _poll_of(loop: Any) -> NativePoll | EpollPoll | SelectorPoll:
    """How a loop polls best: compiled, where there is epoll."""
    made = poll_of(loop)
    if type(made) is not EpollPoll:
        return made
    weak = weakref.proxy(loop)
    poll = NativePoll(
        loop._selector.fileno(),
        loop._ready,
        loop._readers,
        loop._writers,
        lambda handle: weak._found_again(handle),
        FdState.IDLE,
        FdState.BUSY,
    )
    poll.loosen(loop)
    return poll


class _Careful(SelectorEngine):
    """What the compiled methods leave to Python: debug mode, a closed loop, and arguments that are wrong."""

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> TimerHandle:
        """Arrange for a callback to be called at a time of the loop's clock."""
        if when is None:
            raise TypeError("when cannot be None")
        loop: Any = self
        loop._check_closed()
        if loop._debug:
            loop._check_thread()
            loop._check_callback(callback, "call_at")
        timer: Any = compiled.TimerHandle(when, callback, args, self, context)
        if self._debug:
            timer._source_traceback = format_helpers.extract_stack(sys._getframe(1))
        loop._scheduled.push(timer)
        return timer  # type: ignore[no-any-return]


class NativeEngine(_LoopFields, _Careful):  # type: ignore[misc]
    """``asyncio.SelectorEventLoop``, compiled in part."""

    engine_name = "native"
    _compiled = True

    def _make_poll(self) -> Any:
        return _poll_of(self)

    def _write_to_self(self) -> None:
        # Called from C.  With a frame of this package's, what a signal handler raises here is put off.
        super()._write_to_self()

    def _run_ends(self) -> None:
        self._flush()
        super()._run_ends()

    def close(self) -> None:
        """Close the loop."""
        self._flush()
        super().close()

    def _abandon(self) -> None:
        self._forget_queued()
        super()._abandon()

    def _new_socket_transport(self, sock: Any, protocol: Any, **kwargs: Any) -> Any:
        if not _is_the_system_s(sock):
            return super()._new_socket_transport(sock, protocol, **kwargs)
        return StreamTransport(self, sock, protocol, **kwargs)


def _is_the_system_s(sock: Any) -> bool:
    """Whether a socket's methods are the system's calls; a class derived from it may count, limit or replay them."""
    kind = type(sock)  # what a mock says of its class is another's
    return (
        issubclass(kind, _socket.socket)
        and kind.recv is _socket.socket.recv
        and kind.recv_into is _socket.socket.recv_into
        and kind.send is _socket.socket.send
        and kind.sendmsg is _socket.socket.sendmsg
    )
