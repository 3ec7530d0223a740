"""An app of procrastinate's: jobs that block until another job of the same worker has run."""

from __future__ import annotations

import os
from pathlib import Path

import procrastinate
from blocking import ask_backend, shelf

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["DATABASE"]))
RESULTS = Path(os.environ["RESULTS"])


def tell(line: str) -> None:
    with RESULTS.open("a") as file:
        file.write(line + "\n")


@app.task
async def takes() -> None:
    tell(f"took {shelf.get()}")


@app.task
async def puts(word: str) -> None:
    shelf.put(word)
    tell(f"put {word}")


@app.task
async def asks() -> None:
    tell(ask_backend())
