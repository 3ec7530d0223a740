"""A load for servers that echo over TLS.  (``echo_load.c`` does the same without TLS, and costs less.)

    python -m benchmarks.echo_tls PORT CONNECTIONS SIZE SECONDS

It prints how many messages came back, per second.
"""

from __future__ import annotations

import select
import socket
import ssl
import sys
from time import monotonic


class Connection:
    """A connection, and how much of a message has come back."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        plain = socket.create_connection(("127.0.0.1", port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tls = context.wrap_socket(plain)
        self.received = 0


def load(port: int, connections: int, size: int, seconds: float) -> float:
    """Load; messages per second."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    message = bytes(size)
    epoll = select.epoll()
    made: dict[int, Connection] = {}
    for _ in range(connections):
        connection = Connection(port, context)
        made[connection.tls.fileno()] = connection
        epoll.register(connection.tls.fileno(), select.EPOLLIN)
        connection.tls.sendall(message)
    count, began = 0, monotonic()
    while monotonic() - began < seconds:
        for fd, _ in epoll.poll(1):
            connection = made[fd]
            while True:
                connection.received += len(connection.tls.recv(1 << 16))
                if not connection.tls.pending():
                    break
            if connection.received >= size:
                connection.received = 0
                count += 1
                connection.tls.sendall(message)
    return count / (monotonic() - began)


if __name__ == "__main__":
    print(load(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
