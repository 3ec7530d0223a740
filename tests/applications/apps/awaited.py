"""What is awaited at IPython's prompt."""

from __future__ import annotations

from blocking import shelf


async def take() -> str:
    return shelf.get()


async def put(word: str) -> None:
    shelf.put(word)
