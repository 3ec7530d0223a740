"""Synchronous code that asks for coroutines in the middle of a step, by nest_asyncio or its successor."""

from __future__ import annotations

import asyncio
import importlib
import sys
import threading

importlib.import_module(sys.argv[1]).apply()

import hybridexec  # noqa: E402

released = threading.Event()


async def fetch(number: int) -> int:
    """Over a socket of asyncio's."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"%d\n" % number)
        found = int(await reader.readline())
        writer.close()
    return found


def synchronous(number: int) -> int:
    """Does not know that it runs in a loop."""
    found = asyncio.run(fetch(number))
    released.wait()
    return found


async def task(number: int) -> int:
    return synchronous(number)


async def releases() -> None:
    asyncio.get_running_loop().run_until_complete(asyncio.sleep(0.01))
    released.set()


async def main() -> None:
    *found, _ = await asyncio.gather(*map(task, range(4)), releases())
    print(*found)


hybridexec.run(main())
