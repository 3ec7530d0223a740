"""What a dask worker is given to run: `async def` functions, which it runs on its own loop."""

from __future__ import annotations

from blocking import shelf


async def take() -> str:
    return shelf.get()


async def put(word: str) -> str:
    shelf.put(word)
    return f"put {word}"


def square(number: int) -> int:
    return number * number
