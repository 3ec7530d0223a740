"""A WSGI application that has a loop for each request."""

from __future__ import annotations

import asyncio
import threading

import hybridexec


async def gathered() -> bytes:
    released = threading.Event()

    async def waits() -> bytes:
        released.wait()
        return b"moved"

    async def releases() -> None:
        await asyncio.sleep(0.001)
        released.set()

    found, _ = await asyncio.gather(waits(), releases())
    return found


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [hybridexec.run(gathered())]
