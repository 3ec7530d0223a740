"""Pages by NiceGUI: one blocks until another one is asked for."""

from __future__ import annotations

import os

from blocking import ask_backend, shelf
from nicegui import app, ui


@ui.page("/take")
async def take() -> None:
    ui.label(f"took {shelf.get()}")


@ui.page("/put/{word}")
async def put(word: str) -> None:
    shelf.put(word)
    ui.label(f"put {word}")


@app.get("/backend")
async def backend() -> str:
    return ask_backend()


ui.run(host="127.0.0.1", port=int(os.environ["PORT"]), reload=False, show=False, show_welcome_message=False)
