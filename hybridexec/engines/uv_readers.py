"""Watching: what libuv looks at for the program of the uvloop engine.

*Readers and writers* of the program are known to libuv by a function that puts the program's handle into our queue.  It
may be called several times before that handle has run, since a file descriptor goes on being ready: the handle is
queued once, and if a later poll finds it busy still (``FdState``), the file descriptor is taken out until the handle
has its turn, or its callback, which blocks, is over.

What else libuv has open, only uvloop knows: that anything was ever opened is noted where uvloop is asked for it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from uvloop.loop import Loop

from .handles import FdHandle, FdState, number_of

OPENING = (
    "connect_accepted_socket",
    "connect_read_pipe",
    "connect_write_pipe",
    "create_connection",
    "create_datagram_endpoint",
    "create_unix_connection",
    "getaddrinfo",
    "getnameinfo",
    "sock_accept",
    "sock_connect",
    "sock_recv",
    "sock_recv_into",
    "sock_sendall",
    "subprocess_exec",
    "subprocess_shell",
)
"""uvloop's methods that open something which input may come from."""

SERVING = ("create_server", "create_unix_server")
"""Those that open what connections are accepted from."""


class Watching:
    """The readers and writers of one loop.  Its holder changes them.

    Args:
        loop: the loop, which is uvloop's, too.
        ready: its queue.

    Attributes:
        readers: by the number of the file descriptor.
        writers: the same.
        polls: the number of the poll that is going on.
        opened: whether anything else was opened that input may come from.
        accepted: how many connections were accepted.
    """

    def __init__(self, loop: Any, ready: deque[Any]) -> None:
        self._loop = loop
        self._ready = ready
        self._abandoned = False
        self.readers: dict[int, FdHandle] = {}
        self.writers: dict[int, FdHandle] = {}
        self.polls = 0
        self.opened = False
        self.accepted = 0

    def loosen(self, loop: Any) -> None:
        """The loop is closed: refer to it by this from now on."""
        self._loop = loop
        self.readers.clear()
        self.writers.clear()

    def has_input(self) -> bool:
        """Whether anything was opened that input may come from; what is open now, only uvloop knows."""
        return self.opened or bool(self.readers) or bool(self.writers)

    def watch(
        self, table: dict[int, FdHandle], fd: Any, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> FdHandle:
        """Register a callback in one of the tables, in the place of a former one."""
        number = number_of(fd)
        handle = FdHandle(table, fd, number, callback, args, self._loop)
        self._tell_uv(handle)
        former = table.get(number)
        table[number] = handle
        if former is not None:
            former.cancel()
        return handle

    def unwatch(self, table: dict[int, FdHandle], fd: Any) -> bool:
        """Remove a callback.  Returns whether there was one."""
        handle = table.pop(number_of(fd), None)
        if self._loop.is_closed():
            return False
        self._untell_uv(table, fd)
        if handle is not None:
            handle.cancel()
        return handle is not None

    def put_back(self, handle: FdHandle) -> None:
        """Watch for a callback again that was in flight, if it is still registered."""
        was, handle.state = handle.state, FdState.IDLE
        if was is FdState.TAKEN_OUT and handle.is_registered():
            with contextlib.suppress(OSError, ValueError):  # closed without being removed
                self._tell_uv(handle)

    def abandon(self) -> None:
        """libuv's epoll is shared with the parent: it is told nothing any more."""
        self._abandoned = True

    def _tell_uv(self, handle: FdHandle) -> None:
        if not self._abandoned:
            add = Loop.add_reader if handle.table is self.readers else Loop.add_writer
            add(self._loop, handle.fd, self._found, handle)

    def _untell_uv(self, table: dict[int, FdHandle], fd: Any) -> None:
        if not self._abandoned:
            remove = Loop.remove_reader if table is self.readers else Loop.remove_writer
            remove(self._loop, fd)

    def _found(self, handle: FdHandle) -> None:
        """In the poll: a file descriptor is ready."""
        if handle.state is FdState.IDLE:
            handle.state = FdState.BUSY
            handle.polled = self.polls
            self._ready.append(handle)
            self._loop._poll.end()
        elif handle.polled != self.polls and handle.state is FdState.BUSY:
            handle.state = FdState.TAKEN_OUT
            self._untell_uv(handle.table, handle.fd)


def opening(name: str) -> Any:
    """A method of uvloop's that opens something, for a class of loops that have a ``Watching``.

    In debug mode one that is given a socket refuses one that blocks, as uvloop's do.
    """
    method = getattr(Loop, name)
    of_socket = name.startswith("sock_")

    @functools.wraps(method)
    def opens(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._watching.opened = True
        if of_socket and self._debug:
            _check_socket(*args, **kwargs)
        return method(self, *args, **kwargs)

    # What it returns is awaited: who stands in for it (``unittest.mock``) asks.
    return inspect.markcoroutinefunction(opens) if inspect.iscoroutinefunction(method) else opens


def serving(name: str) -> Any:
    """A method of uvloop's that makes a server: each connection that it accepts is counted."""
    opens = opening(name)

    @functools.wraps(opens)
    def serves(self: Any, protocol_factory: Callable[[], Any], *args: Any, **kwargs: Any) -> Any:
        watching = self._watching  # the factory may outlive the loop

        def accepts() -> Any:
            watching.accepted += 1
            return protocol_factory()

        return opens(self, accepts, *args, **kwargs)

    return inspect.markcoroutinefunction(serves)


def _check_socket(sock: socket.socket, *_: Any, **__: Any) -> None:
    if sock.gettimeout() != 0:
        raise ValueError("the socket must be non-blocking")
