"""trio as a guest on our loop, beside asyncio: each side has httpx, and blocks on what the other one sets."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import sniffio
import trio

import hybridexec

to_trio, to_asyncio = threading.Event(), threading.Event()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
    writer.close()


async def ask(url: str) -> str:
    async with httpx.AsyncClient() as client:
        return f"{sniffio.current_async_library()}: {(await client.get(url)).text}"


async def main() -> None:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

        async def guest() -> str:
            to_asyncio.set()
            to_trio.wait()  # blocks, in a task of trio's
            await trio.sleep(0.001)
            return await ask(url)

        async def host() -> str:
            to_asyncio.wait()
            found = await ask(url)  # while the guest is blocked
            to_trio.set()
            return found

        trio.lowlevel.start_guest_run(
            guest, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=done.set_result
        )
        print(await host())
        print((await done).unwrap())


hybridexec.run(main())
