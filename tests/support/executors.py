"""What the tests of the executor share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest
from helpers import AUTO

from hybridexec import HybridExecutor, UserThread, UserThreadState

ENGINES = [AUTO, "uvloop"]
"""On which engines the loops of the executor are tried."""

LOOPS = [1, 2, 4]

MODELS: list[dict[str, Any]] = [
    *({"model": "m:n", "loops": loops, "engine": engine} for loops in LOOPS for engine in ENGINES),
    {"model": "1:1"},
    {"model": "n:1"},
]

PATIENCE = 100
"""Seconds after which a test gives up waiting for what has to come."""


def name_of(options: dict[str, Any]) -> str:
    return "-".join(str(value) for value in options.values())


every_model = pytest.mark.parametrize("options", MODELS, ids=name_of)
every_moving = pytest.mark.parametrize("options", [m for m in MODELS if m["model"] == "m:n"], ids=name_of)
every_engine = pytest.mark.parametrize("engine", ENGINES)
several_moving = pytest.mark.parametrize("options", [m for m in MODELS if m.get("loops", 1) > 1], ids=name_of)


@contextlib.contextmanager
def executing(*arguments: Any, **options: Any) -> Iterator[HybridExecutor]:
    """An executor for the time of a block.  If a test fails inside, nothing is waited for that will not come."""
    with HybridExecutor(*arguments, **options) as executor:
        try:
            yield executor
        except BaseException:
            for user_thread in list(executor._crew.live):
                user_thread.cancel()
            raise


class Gate:
    """A user thread of either kind waits here in a blocking call until it is let through."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self._open = threading.Event()

    def enter(self, result: Any = None) -> Any:
        """Say that it is here, and block until the gate is open."""
        self.entered.release()
        assert self._open.wait(PATIENCE)
        return result

    async def enter_async(self, result: Any = None) -> Any:
        """The same in a coroutine: it blocks all the same."""
        return self.enter(result)

    def reached(self, count: int = 1) -> None:
        """Wait until so many have come."""
        for _ in range(count):
            assert self.entered.acquire(timeout=PATIENCE)

    def open(self) -> None:
        """Let everybody through.  Any thread."""
        self._open.set()


@contextlib.contextmanager
def gate() -> Iterator[Gate]:
    """A gate that is open at the end at the latest, or nobody would end."""
    made = Gate()
    try:
        yield made
    finally:
        made.open()


def until(reached: Callable[[], bool]) -> None:
    """Wait for what has to come, and of which nobody tells."""
    for _ in range(PATIENCE * 1000):
        if reached():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it has not come")


def in_state(user_thread: UserThread[Any], state: UserThreadState) -> None:
    """Wait until a user thread is in a state."""
    until(lambda: user_thread.state is state)


class Busy:
    """A step that computes until somebody else has had a step."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.over = False

    def __call__(self) -> str:
        self.began.set()
        deadline = monotonic() + PATIENCE
        while not self.over:
            assert monotonic() < deadline
        return "computed"

    def end(self) -> None:
        self.over = True


async def forever(started: threading.Event | None = None) -> None:
    """Wait for what never comes."""
    if started is not None:
        started.set()
    await asyncio.get_running_loop().create_future()


def read(descriptors: tuple[int, int]) -> bytes:
    """Block until somebody has written."""
    return os.read(descriptors[0], 1)
