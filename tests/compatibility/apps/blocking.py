"""What the handlers of these services block on: never time, always what somebody else has to bring.

A handler that froze its loop here would freeze it for ever, as what it waits for comes by the same loop, or from the
test, which brings it only when it has seen that others are served.
"""

from __future__ import annotations

import os
import queue
import socket
import urllib.request

shelf: queue.SimpleQueue[str] = queue.SimpleQueue()
"""What one request takes, and another has to put there."""


def call_itself(path: str) -> str:
    """Ask this service itself, by a client that knows no asyncio."""
    with urllib.request.urlopen(f"http://127.0.0.1:{os.environ['PORT']}{path}") as response:
        body: str = response.read().decode()
        return body


def ask_backend() -> str:
    """Ask the test, which answers when it wants to (``Backend`` in service.py)."""
    with socket.create_connection(("127.0.0.1", int(os.environ["BACKEND"]))) as connection:
        connection.sendall(f"{os.getpid()}\n".encode())
        return b"".join(iter(lambda: connection.recv(100), b"")).decode()
