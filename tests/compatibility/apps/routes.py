"""A bare ASGI application of coroutine functions by path, so that a driver's test needs no framework.

A function gets the query's parameters as keywords, and returns the text of the answer.
"""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any


@contextlib.asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


def application(
    *handlers: Callable[..., Awaitable[object]],
    lifespan: Callable[[], contextlib.AbstractAsyncContextManager[None]] = _nothing,
) -> Any:
    """The application.

    Args:
        handlers: each serves the path of its own name.
        lifespan: entered when the server starts, and left when it ends.
    """
    by_path = {f"/{handler.__name__}": handler for handler in handlers}
    stack = contextlib.AsyncExitStack()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await stack.enter_async_context(lifespan())
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await stack.aclose()
            await send({"type": "lifespan.shutdown.complete"})
            return
        parameters = dict(urllib.parse.parse_qsl(scope["query_string"].decode()))
        body = str(await by_path[scope["path"]](**parameters)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": body})

    return app
