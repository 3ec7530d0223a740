"""An aiohttp service that blocks: by its runner for programs (``runner``), or by ``web.run_app``."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import aiohttp
from aiohttp import web
from blocking import ask_backend, call_itself, shelf

import hybridexec


@web.middleware
async def asks_itself(request: web.Request, handler: web.RequestHandler) -> web.StreamResponse:
    if request.path == "/outer":
        call_itself("/inner")
    return await handler(request)


async def outer(request: web.Request) -> web.Response:
    return web.Response(text="outer " + call_itself("/inner"))


async def inner(request: web.Request) -> web.Response:
    return web.Response(text="inner")


async def put(request: web.Request) -> web.Response:
    shelf.put(request.match_info["word"])
    return web.Response(text="put")


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"first ")
    await response.write(shelf.get().encode())
    await response.write_eof(b" last")
    return response


async def client(request: web.Request) -> web.Response:
    """Ask itself by aiohttp's client, some of whose requests are answered only when others have been."""

    async def get(session: aiohttp.ClientSession, path: str) -> str:
        async with session.get(f"http://127.0.0.1:{os.environ['PORT']}{path}") as response:
            return await response.text()

    async with aiohttp.ClientSession() as session:
        answers = await asyncio.gather(*(get(session, path) for path in ("/stream", "/outer", "/put/middle")))
    return web.Response(text=", ".join(answers))


async def backend(request: web.Request) -> web.Response:
    return web.Response(text=ask_backend())


async def websocket(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        verb, _, word = message.data.partition(" ")
        if verb == "put":
            shelf.put(word)
        await socket.send_str("put" if verb == "put" else shelf.get() if verb == "take" else call_itself("/inner"))
    return socket


def make() -> web.Application:
    app = web.Application(middlewares=[asks_itself])
    app.add_routes(
        [
            web.get("/outer", outer),
            web.get("/inner", inner),
            web.get("/put/{word}", put),
            web.get("/stream", stream),
            web.get("/client", client),
            web.get("/backend", backend),
            web.get("/", websocket),
        ]
    )
    return app


async def runner() -> None:
    """Serve until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    runner = web.AppRunner(make())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(os.environ["PORT"])).start()
    await ended.wait()
    await runner.cleanup()


if __name__ == "__main__":
    if sys.argv[1:] == ["runner"]:
        hybridexec.run(runner())
    else:
        web.run_app(make(), host="127.0.0.1", port=int(os.environ["PORT"]), loop=hybridexec.new_event_loop())
