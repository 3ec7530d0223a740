"""A load: a closed loop over many connections, in a process of its own, as cheap as Python can do it.

    python -m benchmarks.load PORT CONNECTIONS WARM SECONDS

It prints ``warm`` once it has loaded the server for ``WARM`` seconds, measures for ``SECONDS`` and prints a line of
JSON: requests, seconds, p50 and p99 in seconds, errors, connections closed by the server between two requests, and how
many requests were answered in all, warming up included.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from time import monotonic

from .measuring import percentile

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
PATIENCE = 10.0


class Connection:
    """A keep-alive connection, and when its request was sent."""

    __slots__ = ("began", "part", "receive", "send", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.receive = self.socket.recv
        self.send = self.socket.send
        self.part = b""  # of an answer that has not come whole
        self.began = 0.0


class Load:
    """The load, and what it has counted."""

    def __init__(self, port: int, connections: int) -> None:
        made = [Connection(port) for _ in range(connections)]
        self._connections = {connection.socket.fileno(): connection for connection in made}
        self._epoll = select.epoll()
        self.errors = self.closed = self.answered = 0
        for fd, connection in self._connections.items():
            self._epoll.register(fd, select.EPOLLIN)
            connection.began = monotonic()
            connection.send(REQUEST)

    def run(self, seconds: float, again: bool = True) -> tuple[list[float], float]:
        """Go on for a while: how long each request took, and how long all took.

        Args:
            seconds: how long at most.
            again: whether a connection that has its answer sends another request.
        """
        lasted: list[float] = []
        start = now = monotonic()
        while self._connections and now - start < seconds:
            for fd, _ in self._epoll.poll(0.1):
                connection = self._connections[fd]
                try:
                    came = connection.receive(4096)
                    answer = connection.part + came
                    if came and answer.startswith(b"HTTP/1.1 200 "):
                        if not answer.endswith(b"\r\n\r\nok"):
                            connection.part = answer
                            continue
                        now = monotonic()
                        lasted.append(now - connection.began)
                        connection.part = b""
                        if again:
                            connection.began = now
                            connection.send(REQUEST)
                        else:
                            self._leave(fd)
                        continue
                except ConnectionError:
                    answer = connection.part
                self._lose(fd, answer)
            now = monotonic()
        self.answered += len(lasted)
        return lasted, now - start

    def end(self) -> None:
        """Wait for the answers that are due: one that does not come is an error."""
        self.run(PATIENCE, again=False)
        for fd in list(self._connections):
            self.errors += 1
            self._leave(fd)

    def _lose(self, fd: int, answer: bytes) -> None:
        """A server may close a connection that it owes nothing; all else is an error."""
        if answer:
            self.errors += 1
        else:
            self.closed += 1
        self._leave(fd)

    def _leave(self, fd: int) -> None:
        self._epoll.unregister(fd)
        self._connections.pop(fd).socket.close()


def main(port: int, connections: int, warm: float, seconds: float) -> None:
    """Load, and say what came of it."""
    load = Load(port, connections)
    load.run(warm)
    print("warm", flush=True)
    lasted, took = load.run(seconds)
    load.end()
    p50, p99 = (percentile(lasted, share) if lasted else 0.0 for share in (0.5, 0.99))
    found = {"requests": len(lasted), "seconds": took, "p50": p50, "p99": p99}
    print(json.dumps({**found, "errors": load.errors, "closed": load.closed, "answered": load.answered}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
