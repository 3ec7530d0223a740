"""A small HTTP service whose ``async def`` handlers block on real things.

It has never heard of hybridexec: the demo runs this file, as it is, once by ``python`` and once by ``hybridexec run``.

    python service.py DATABASE UPSTREAM_PORT

It prints its port, serves until its standard input ends, and then prints how often and how long it stood still.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import sqlite3
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import h11

TICK = 0.005
"""Seconds between two ticks of what watches the loop."""
LATE = 0.05
"""Seconds by which a tick is late when the service is said to stand still."""
BACKLOG = 512

type Handler = Callable[[str], Awaitable[tuple[int, bytes]]]


@contextlib.asynccontextmanager
async def closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Close a connection on leaving, whether or not the peer is still there."""
    try:
        yield
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler) -> None:
    """Serve one HTTP/1.1 connection.

    Args:
        reader: where requests come from.
        writer: where responses go.
        handler: gets a path, gives a status and a body.
    """
    connection = h11.Connection(h11.SERVER)
    async with closing(writer):
        with contextlib.suppress(ConnectionError, h11.RemoteProtocolError):
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await reader.read(65536))
                elif isinstance(event, h11.Request):
                    status, body = await handler(event.target.decode("ascii"))
                    head = h11.Response(status_code=status, headers=[("content-length", str(len(body)))])
                    for part in (head, h11.Data(body), h11.EndOfMessage()):
                        writer.write(connection.send(part) or b"")
                    await writer.drain()
                elif event is h11.PAUSED:
                    connection.start_next_cycle()
                elif isinstance(event, h11.ConnectionClosed):
                    return


class Service:
    """The handlers, and what they block on.

    Args:
        database: the path of a sqlite file, which is made.
        upstream: the port of a slow HTTP server on this machine.
    """

    def __init__(self, database: str, upstream: int) -> None:
        self._database = database
        self._upstream = upstream
        self._cache_lock = threading.Lock()
        self._cache = 0
        self._handlers = {"/sleep": self.sleep, "/visits": self.visits, "/fetch": self.fetch, "/cache": self.cache}
        with contextlib.closing(sqlite3.connect(database)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("CREATE TABLE visits (path TEXT)")

    async def handle(self, path: str) -> tuple[int, bytes]:
        """Answer a request."""
        handler = self._handlers.get(path)
        return (404, b"") if handler is None else (200, await handler())

    async def sleep(self) -> bytes:
        """Stands for any slow call."""
        time.sleep(0.02)
        return b"slept"

    async def visits(self) -> bytes:
        """Writes to a database and reads from it."""
        with contextlib.closing(sqlite3.connect(self._database, timeout=30)) as db:
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("INSERT INTO visits VALUES ('/visits')")
            count = db.execute("SELECT count(*) FROM visits").fetchone()[0]
            db.commit()
        return str(count).encode()

    async def fetch(self) -> bytes:
        """Asks another service, by a client that knows no asyncio."""
        connection = http.client.HTTPConnection("127.0.0.1", self._upstream, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", "/")
            return connection.getresponse().read()

    async def cache(self) -> bytes:
        """Reads what a thread rebuilds under a lock."""
        with self._cache_lock:
            return str(self._cache).encode()

    def rebuild(self, stopped: threading.Event) -> None:
        """Rebuild the cache now and again, on a thread."""
        while not stopped.wait(0.04):
            with self._cache_lock:
                time.sleep(0.01)
                self._cache += 1


class Watch:
    """Notices when the loop stands still."""

    def __init__(self) -> None:
        self.late: list[float] = []

    async def run(self) -> None:
        """Tick, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK
            await asyncio.sleep(TICK)
            late = loop.time() - due
            if late > LATE:
                self.late.append(late)

    def summary(self) -> str:
        """How often and how long the loop stood still."""
        return json.dumps({"stalls": len(self.late), "stalled": sum(self.late), "longest": max(self.late, default=0)})


async def main(database: str, upstream: int) -> None:
    """Serve until standard input ends."""
    service, watch = Service(database, upstream), Watch()
    loop, ended, stopped = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def wait_for_end() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait_for_end, daemon=True).start()
    rebuilder = threading.Thread(target=service.rebuild, args=(stopped,))
    rebuilder.start()
    try:
        server = await asyncio.start_server(
            lambda reader, writer: converse(reader, writer, service.handle), "127.0.0.1", 0, backlog=BACKLOG
        )
        async with server:
            print(server.sockets[0].getsockname()[1], flush=True)
            ticking = asyncio.create_task(watch.run())
            await ended.wait()
            ticking.cancel()
    finally:
        stopped.set()
        rebuilder.join()
    print(watch.summary(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
