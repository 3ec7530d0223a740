"""A broker of taskiq's, with tasks that block until another one has run in the same process."""

from __future__ import annotations

import os

from blocking import ask_backend, shelf
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

broker = ListQueueBroker(os.environ["REDIS"]).with_result_backend(RedisAsyncResultBackend(os.environ["REDIS"]))


@broker.task
async def takes() -> str:
    return shelf.get()


@broker.task
async def puts(word: str) -> str:
    shelf.put(word)
    return f"put {word}"


@broker.task
async def asks() -> str:
    return ask_backend()
