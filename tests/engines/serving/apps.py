"""Services whose ``async def`` handlers block, for a uvicorn in a process of its own.

``plain`` is bare ASGI; ``star`` is Starlette's, ``fast`` FastAPI's.  All offer the same paths:

* ``/sleep``: ``time.sleep``;
* ``/hold`` and ``/free``: acquires a lock that is held; releases it;
* ``/write`` and ``/commit``: a transaction in a sqlite file that is open across an await; ends it;
* ``/count``: waits for that transaction, and says how many rows there are;
* ``/fifo``: reads a byte from a named pipe;
* ``/began``: says how many requests have begun.

When it stops, the service writes how many requests it has begun and ended to the file of ``SERVING_TALLY``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]

NAP = float(os.environ.get("SERVING_NAP", "0.01"))
DATABASE = os.environ.get("SERVING_DATABASE", "")
FIFO = os.environ.get("SERVING_FIFO", "")

gate = threading.Lock()
gate.acquire()
committed = asyncio.Event()
began = ended = 0


def connect() -> sqlite3.Connection:
    """A connection to the database, which the steps of a request may use from more than one thread."""
    return sqlite3.connect(DATABASE, timeout=30, isolation_level=None, check_same_thread=False)


async def sleep() -> str:
    """Sleep."""
    time.sleep(NAP)
    return "slept"


async def hold() -> str:
    """Acquire what only another request can release."""
    gate.acquire()
    return "held"


async def free() -> str:
    """Release it."""
    gate.release()
    return "freed"


async def write() -> str:
    """Write a row, in a transaction that another request ends."""
    connection = connect()
    connection.execute("create table if not exists numbers (number integer)")
    connection.execute("begin immediate")
    connection.execute("insert into numbers values (1)")
    Path(f"{DATABASE}-written").touch()
    await committed.wait()
    connection.execute("commit")
    connection.close()
    return "written"


async def commit() -> str:
    """Let the transaction end."""
    committed.set()
    return "committed"


async def count() -> str:
    """Wait for the transaction in sqlite's own busy handler."""
    connection = connect()
    connection.execute("begin immediate")
    (number,) = connection.execute("select count(*) from numbers").fetchone()
    connection.execute("commit")
    connection.close()
    return str(number)


async def fifo() -> str:
    """Read what somebody outside has to write."""
    fd = os.open(FIFO, os.O_RDONLY)
    try:
        return os.read(fd, 1).decode()
    finally:
        os.close(fd)


async def told() -> str:
    """How many requests have begun."""
    return str(began)


HANDLERS = {
    "/sleep": sleep,
    "/hold": hold,
    "/free": free,
    "/write": write,
    "/commit": commit,
    "/count": count,
    "/fifo": fifo,
    "/began": told,
}


async def counted(path: str) -> str:
    """Handle a request, and count it."""
    global began, ended
    began += 1
    text = await HANDLERS[path]()
    ended += 1
    return text


def tally() -> None:
    """Say how many requests there were."""
    path = os.environ.get("SERVING_TALLY")
    if path:
        Path(path).write_text(f"{began} {ended}")


async def plain(scope: Message, receive: Receive, send: Send) -> None:
    """Bare ASGI."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        tally()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = (await counted(scope["path"])).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def lifespan(app: object) -> AsyncIterator[None]:
    """From start to stop."""
    yield
    tally()


async def answer(request: Request) -> PlainTextResponse:
    """Starlette's handler."""
    return PlainTextResponse(await counted(request.url.path))


star = Starlette(routes=[Route(path, answer) for path in HANDLERS], lifespan=lifespan)

fast = FastAPI(lifespan=lifespan)


@fast.get("/{name}", response_class=PlainTextResponse)
async def named(name: str) -> str:
    """FastAPI's handler."""
    return await counted(f"/{name}")
