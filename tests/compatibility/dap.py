"""A client of the debug adapter protocol, as small as a test needs.

Source: the specification of the Debug Adapter Protocol.
"""

from __future__ import annotations

import itertools
import json
import socket
import time
from typing import Any


class Adapter:
    """A connection to a debugger that listens.

    Args:
        port: where, on loopback.
        limit: seconds that anything may take.
    """

    def __init__(self, port: int, limit: float = 60.0) -> None:
        until = time.monotonic() + limit
        while True:
            try:
                self._socket = socket.create_connection(("127.0.0.1", port), limit)
                break
            except ConnectionRefusedError:  # it takes one connection: there is no other way to see whether it listens
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
        self._file = self._socket.makefile("rb")
        self._serials = itertools.count(1)
        self._events: list[dict[str, Any]] = []

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._socket.close()

    def send(self, command: str, **arguments: Any) -> int:
        """Ask for something.  Returns the request's number."""
        serial = next(self._serials)
        message = {"seq": serial, "type": "request", "command": command, "arguments": arguments}
        body = json.dumps(message).encode()
        self._socket.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        return serial

    def answer(self, serial: int) -> dict[str, Any]:
        """The answer to a request; events that come before it are kept."""
        while True:
            message = self._read()
            if message["type"] == "event":
                self._events.append(message)
            elif message.get("request_seq") == serial:
                assert message["success"], message
                return dict(message.get("body") or {})

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        return self.answer(self.send(command, **arguments))

    def event(self, name: str) -> dict[str, Any]:
        """Wait for an event."""
        while True:
            for event in self._events:
                if event["event"] == name:
                    self._events.remove(event)
                    return dict(event.get("body") or {})
            message = self._read()
            if message["type"] == "event":
                self._events.append(message)

    def _read(self) -> dict[str, Any]:
        length = 0
        while line := self._file.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        assert length, "the debugger has hung up"
        message: dict[str, Any] = json.loads(self._file.read(length))
        return message
