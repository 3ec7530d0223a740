"""A FastAPI service that blocks wherever the framework calls it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

from blocking import call_itself, shelf
from fastapi import BackgroundTasks, Depends, FastAPI, WebSocket

app = FastAPI()
kept: list[str] = []


@app.get("/inner")
async def inner() -> str:
    return "inner"


@app.get("/put/{word}")
async def put(word: str) -> str:
    shelf.put(word)
    return "put"


async def asynchronous() -> AsyncIterator[str]:
    """A dependency that blocks before and after the request."""
    yield call_itself("/inner")
    call_itself("/put/after")


def synchronous() -> Iterator[str]:
    """The same on one of anyio's threads."""
    call_itself("/inner")
    yield threading.current_thread().name
    call_itself("/put/after")


@app.get("/depends")
async def depends(a: Annotated[str, Depends(asynchronous)], b: Annotated[str, Depends(synchronous)]) -> list[str]:
    return [a, b, call_itself("/inner")]


@app.get("/take")
async def take() -> str:
    return shelf.get()


@app.get("/take_in_a_thread")
def take_in_a_thread() -> list[str]:
    return [threading.current_thread().name, shelf.get()]


@app.get("/background")
async def background(tasks: BackgroundTasks) -> str:
    async def keep() -> None:
        kept.append(shelf.get())

    tasks.add_task(keep)
    return "soon"


@app.get("/kept")
async def what_is_kept() -> list[str]:
    return kept


@app.websocket("/websocket")
async def websocket(socket: WebSocket) -> None:
    await socket.accept()
    async for word in socket.iter_text():
        await socket.send_text(f"{word} {shelf.get()}")
