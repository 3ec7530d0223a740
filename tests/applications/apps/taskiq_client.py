"""Kicks tasks of ``with_taskiq`` and waits for what they return."""

from __future__ import annotations

import asyncio
import sys

from with_taskiq import asks, broker, puts, takes

LIMIT = 100


async def wait_for_each_other() -> None:
    taken = [await takes.kiq() for _ in range(4)]
    others = [await puts.kiq(word) for word in "abcd"]
    assert [(await task.wait_result(timeout=LIMIT)).return_value for task in others] == [f"put {w}" for w in "abcd"]
    assert sorted([(await task.wait_result(timeout=LIMIT)).return_value for task in taken]) == list("abcd")
    print("all tasks have run")


async def ask() -> None:
    task = await asks.kiq()
    print((await task.wait_result(timeout=LIMIT)).return_value)


async def main() -> None:
    await broker.startup()
    await (ask() if "ask" in sys.argv else wait_for_each_other())
    await broker.shutdown()


asyncio.run(main())
