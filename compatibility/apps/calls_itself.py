"""A service whose handlers block on what only another request to the same service can bring.

It comes to an answer only if the loop moves: ``/outer`` asks for ``/inner`` by a blocking client.  Bare ASGI, for the
servers themselves.
"""

from __future__ import annotations

import os
import urllib.request
from typing import Any


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Bare ASGI."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/outer":
        with urllib.request.urlopen(f"http://127.0.0.1:{os.environ['PORT']}/inner") as response:
            body = b"outer " + response.read()
    else:
        body = b"inner"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})
