"""A bare ASGI service, for the servers themselves: HTTP, streams, websockets."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

from blocking import ask_backend, call_itself, shelf


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Dispatch."""
    kinds = {"lifespan": lifespan, "websocket": websocket, "http": http}
    await kinds[scope["type"]](scope, receive, send)


async def lifespan(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Blocks as it starts and as it ends, if a test has something to say to that."""
    while True:
        message = await receive()
        if "BLOCKS_IN_LIFESPAN" in os.environ:
            ask_backend()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def http(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """``/outer`` asks for ``/inner``; ``/backend`` asks the test; ``/take`` and ``/stream`` wait for ``/put``."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    async for part in parts(scope["path"]):
        await send({"type": "http.response.body", "body": part.encode(), "more_body": True})
    await send({"type": "http.response.body"})


async def parts(path: str) -> AsyncIterator[str]:
    """The parts of an answer, which may block between two of them."""
    if path == "/outer":
        yield "outer " + call_itself("/inner")
    elif path == "/backend":
        yield ask_backend()
    elif path == "/stream":
        yield "first "
        yield shelf.get()
        yield " last"
    elif path.startswith("/put/"):
        shelf.put(path.removeprefix("/put/"))
        yield "put"
    else:
        yield path.removeprefix("/")


async def websocket(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Says for each message what it is told: ``take`` waits for another's ``put``, ``call`` asks by HTTP."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        verb, _, word = message["text"].partition(" ")
        if verb == "put":
            shelf.put(word)
            answer = "put"
        elif verb == "take":
            answer = shelf.get()
        elif verb == "backend":
            answer = ask_backend()
        else:
            answer = call_itself("/inner")
        await send({"type": "websocket.send", "text": answer})
