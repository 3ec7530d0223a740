"""The demo's clients: each sends a request, waits for the response, and sends the next."""

from __future__ import annotations

import asyncio
from time import monotonic

import h11

from .service import closing

PATHS = ("/sleep", "/visits", "/fetch", "/cache")


class Load:
    """Requests for a while over a number of connections.

    Args:
        port: the service's port on this machine.
        seconds: how long new requests are sent.
        connections: how many clients there are.

    Attributes:
        latencies: how long each request took, in seconds.
        failures: how many of them got no good response.
        elapsed: seconds from the first request to the last response.
    """

    def __init__(self, port: int, seconds: float, connections: int) -> None:
        self._port = port
        self._seconds = seconds
        self._connections = connections
        self.latencies: list[float] = []
        self.failures = 0
        self.elapsed = 0.0

    async def run(self) -> None:
        """Send requests until the time is over, and wait for their responses.

        Raises:
            OSError: the service cannot be reached, or has gone.
            h11.RemoteProtocolError: it has sent something else than HTTP.
        """
        started = monotonic()
        try:
            async with asyncio.TaskGroup() as clients:
                for number in range(self._connections):
                    clients.create_task(self._client(number, started + self._seconds))
        except* (OSError, h11.RemoteProtocolError) as group:
            raise _first(group) from group
        self.elapsed = monotonic() - started

    async def _client(self, number: int, until: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        connection = h11.Connection(h11.CLIENT)
        async with closing(writer):
            while (began := monotonic()) < until:
                path = PATHS[number % len(PATHS)]
                number += 1
                request = h11.Request(method="GET", target=path, headers=[("host", "127.0.0.1")])
                writer.write((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
                status = await _response(connection, reader)
                self.latencies.append(monotonic() - began)
                self.failures += status != 200
                connection.start_next_cycle()


async def _response(connection: h11.Connection, reader: asyncio.StreamReader) -> int:
    status = 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.EndOfMessage):
            return status
        elif isinstance(event, h11.ConnectionClosed):
            raise ConnectionResetError("the service has closed a connection")


def _first(group: BaseExceptionGroup) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
