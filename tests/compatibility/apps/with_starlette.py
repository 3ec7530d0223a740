"""A Starlette service that blocks wherever the framework calls it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator

from blocking import ask_backend, call_itself, shelf
from starlette.applications import Starlette
from starlette.background import BackgroundTask, BackgroundTasks
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

done: list[str] = []
"""What the background tasks have got."""


class AsksItself(BaseHTTPMiddleware):
    """A middleware that blocks before the endpoint and behind it."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        if request.url.path != "/outer":
            return await call_next(request)
        before = call_itself("/inner")
        response = await call_next(request)
        response.headers["said"] = f"{before} {call_itself('/inner')}"
        return response


async def outer(request: Request) -> Response:
    return PlainTextResponse("outer " + call_itself("/inner"))


async def inner(request: Request) -> Response:
    return PlainTextResponse("inner")


def in_a_thread(request: Request) -> Response:
    return PlainTextResponse(f"{threading.current_thread().name}: {shelf.get()}")


async def put(request: Request) -> Response:
    shelf.put(request.path_params["word"])
    return PlainTextResponse("put")


async def asynchronous_parts() -> AsyncIterator[str]:
    yield "first "
    yield shelf.get()
    yield " " + call_itself("/inner")


def synchronous_parts() -> Iterator[str]:
    yield "first "
    yield shelf.get()
    yield " " + call_itself("/inner")


async def stream(request: Request) -> Response:
    return StreamingResponse(asynchronous_parts())


async def synchronous_stream(request: Request) -> Response:
    return StreamingResponse(synchronous_parts())


async def keep() -> None:
    done.append(shelf.get())


def keep_in_a_thread() -> None:
    done.append(f"{threading.current_thread().name}: {shelf.get()}")


async def background(request: Request) -> Response:
    return PlainTextResponse(
        "soon", background=BackgroundTasks([BackgroundTask(keep), BackgroundTask(keep_in_a_thread)])
    )


async def ask() -> None:
    print("the background task got", ask_backend())


async def ask_in_background(request: Request) -> Response:
    return PlainTextResponse("soon", background=BackgroundTask(ask))


async def what_is_done(request: Request) -> Response:
    return PlainTextResponse(",".join(done))


async def websocket(socket: WebSocket) -> None:
    await socket.accept()
    async for word in socket.iter_text():
        await socket.send_text(f"{word} {shelf.get()} {call_itself('/inner')}")


app = Starlette(
    routes=[
        Route("/outer", outer),
        Route("/inner", inner),
        Route("/in_a_thread", in_a_thread),
        Route("/put/{word}", put),
        Route("/stream", stream),
        Route("/synchronous_stream", synchronous_stream),
        Route("/background", background),
        Route("/ask_in_background", ask_in_background),
        Route("/done", what_is_done),
        WebSocketRoute("/websocket", websocket),
    ],
    middleware=[Middleware(AsksItself)],
)
