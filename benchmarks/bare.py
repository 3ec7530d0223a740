"""The limit: a server that does nothing but block, a thread for each connection.

    python -m benchmarks.bare NAP

It reads, sleeps and answers, in three calls and without an event loop: what is left when all that costs more is gone.
It says the same as ``benchmarks.server``.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time

from .server import end_with_input, say

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Connection:
    """A client's, and how many of its requests have begun and ended."""

    def __init__(self, connection: socket.socket, nap: float) -> None:
        self.began = self.ended = 0
        self._socket = connection
        self._nap = nap
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while self._socket.recv(65536):
            self.began += 1
            time.sleep(self._nap)
            self._socket.sendall(ANSWER)
            self.ended += 1


def main(nap: float) -> None:
    """Serve until told to stop."""
    threading.Thread(target=end_with_input, daemon=True).start()
    connections: list[Connection] = []

    def stop(signum: int, frame: object) -> None:
        say(began=sum(each.began for each in connections), ended=sum(each.ended for each in connections))
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        say(port=listener.getsockname()[1])
        while True:
            connections.append(Connection(listener.accept()[0], nap))


if __name__ == "__main__":
    main(float(sys.argv[1]))
