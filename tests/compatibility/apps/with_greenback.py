"""Synchronous code that awaits by greenback, in a task that blocks, too."""

from __future__ import annotations

import asyncio
import threading

import greenback

import hybridexec

blocked, released = threading.Event(), threading.Event()


def synchronous(number: int) -> int:
    """Awaits, blocks until another task releases it, and awaits again."""
    greenback.await_(asyncio.sleep(0.001))
    blocked.set()
    released.wait()
    found: int = greenback.await_(asyncio.sleep(0.001, number))
    return found


async def task(number: int) -> int:
    await greenback.ensure_portal()
    return synchronous(number)


async def releases() -> None:
    await asyncio.to_thread(blocked.wait)
    released.set()


async def main() -> None:
    *found, _ = await asyncio.gather(*map(task, range(4)), releases())
    print(*found)


hybridexec.run(main())
