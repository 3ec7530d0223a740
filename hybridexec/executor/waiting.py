"""Waiting for a future of another thread, in a task of asyncio or trio: through anyio, which knows which one it is."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Callable
from typing import Any


def _poster() -> Callable[[Callable[[], object]], object]:
    """What has a function called in the event loop that runs the calling task.  Any thread may use it."""
    import anyio.lowlevel

    token: Any = anyio.lowlevel.current_token()
    token = getattr(token, "native_token", token)  # since anyio 4.11 it is wrapped
    post: Callable[[Callable[[], object]], object] = (
        token.run_sync_soon if hasattr(token, "run_sync_soon") else token.call_soon_threadsafe
    )
    return post


def in_event_loop() -> bool:
    """Whether the calling code is a task, or a callback, of an event loop."""
    if asyncio.events._get_running_loop() is not None:
        return True
    import anyio.lowlevel

    try:
        anyio.lowlevel.current_token()
    except RuntimeError:
        return False
    return True


async def settled(future: concurrent.futures.Future[Any]) -> None:
    """Wait until a future is done, however it ends.  Whoever waits may be cancelled, and the future goes on."""
    if future.done():
        return
    import anyio

    event = anyio.Event()
    post = _poster()

    def tell(_: object) -> None:
        with contextlib.suppress(RuntimeError):  # whoever waited has been cancelled, and its event loop is closed
            post(event.set)

    future.add_done_callback(tell)
    await event.wait()


def outcome[T](future: concurrent.futures.Future[T]) -> T:
    """The result of a future that is done, in a task of asyncio or trio.

    Raises:
        asyncio.CancelledError: it was cancelled, and this is asyncio.
        concurrent.futures.CancelledError: it was cancelled, and this is another event loop, which has no word for that.
        BaseException: what it has raised.
    """
    import anyio

    if future.cancelled() and issubclass(asyncio.CancelledError, anyio.get_cancelled_exc_class()):
        raise asyncio.CancelledError("the user thread was cancelled")
    return future.result()
