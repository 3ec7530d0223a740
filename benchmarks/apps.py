"""ASGI apps for the servers that are measured.  Bare, so that the handler is what is measured."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread

THREADS = 64

type Receive = Callable[[], Awaitable[dict[str, Any]]]
type Send = Callable[[dict[str, Any]], Awaitable[None]]
type Handler = Callable[[], Awaitable[object]]


class App:
    """An app with one handler, which counts.

    Attributes:
        began: how many requests have begun.
        ended: how many of them have been answered.
    """

    def __init__(self, handler: Handler, started: Callable[[], None], stopped: Callable[[int, int], None]) -> None:
        self.began = self.ended = 0
        self._handler = handler
        self._started = started
        self._stopped = stopped

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        self.began += 1
        await self._handler()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
        self.ended += 1

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                self._stopped(self.began, self.ended)
                await send({"type": "lifespan.shutdown.complete"})
                return
            await send({"type": "lifespan.startup.complete"})
            self._started()


def blocking(nap: float) -> Handler:
    """Just blocks."""

    async def handler() -> None:
        time.sleep(nap)

    return handler


def offloaded(nap: float) -> Handler:
    """What people are told to do, with as many threads as there are connections."""
    limiter: anyio.CapacityLimiter | None = None

    async def handler() -> None:
        nonlocal limiter
        if limiter is None:  # it can be made in a running loop only
            limiter = anyio.CapacityLimiter(THREADS)
        await anyio.to_thread.run_sync(time.sleep, nap, limiter=limiter)

    return handler


def plain(nap: float) -> Handler:
    """Does not block."""

    async def handler() -> None:
        pass

    return handler


HANDLERS: dict[str, Callable[[float], Handler]] = {"blocking": blocking, "offloaded": offloaded, "plain": plain}
