"""A worker of arq's: one job blocks until another job of the same worker lets it go."""

from __future__ import annotations

import os
from typing import Any

from arq.connections import RedisSettings
from blocking import ask_backend, shelf


async def takes(context: dict[str, Any]) -> str:
    return shelf.get()


async def puts(context: dict[str, Any], word: str) -> str:
    shelf.put(word)
    return f"put {word}"


async def asks(context: dict[str, Any]) -> str:
    return ask_backend()


class WorkerSettings:
    """What the command ``arq`` takes."""

    functions = (takes, puts, asks)
    redis_settings = RedisSettings.from_dsn(os.environ["REDIS"])
    handle_signals = True
    poll_delay = 0.05
    job_completion_wait = 60
