"""Settings: one scene is played on asyncio's own loop and on ours, where it is carried to a spare and back.

What comes out has to be the same.  On asyncio's loop the blocks are left out, since nothing would end them.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import gc
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from helpers import LIBC, holds, lwps

import hybridexec


class Ends(BaseException):
    """Neither an Exception, nor one that ends a loop."""


class Setting:
    """Where a scene is played: on asyncio's loop, or on ours; there, where its steps are carried to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ours = name != "asyncio"
        self.home = _thread.get_ident()

    def run(self, main: Callable[[Setting], Awaitable[Any]]) -> Any:
        """Run a scene; what it returns or raises."""

        async def top() -> Any:
            return await main(self)

        return hybridexec.run(top()) if self.ours else asyncio.run(top())

    def block(self) -> None:
        """A blocking call, which only a callback behind it in the queue can end; so the loop moves."""
        if self.ours:
            with self._pipe() as reader:
                os.read(reader, 1)
            assert holds(asyncio.get_running_loop())

    def block_undeclared(self) -> None:
        """The same, but nobody knows that it blocks."""
        if self.ours:
            with self._pipe() as reader:
                LIBC.read(reader, b" ", 1)
            assert holds(asyncio.get_running_loop())

    def go(self, function: Callable[[], object]) -> Callable[[], object]:
        """The function, called in the place where the scene is to be played: in a step of its own on a spare or at
        home, before or after a block."""
        match self.name:
            case "asyncio" | "home":
                return function
            case "blocked":
                return lambda: self._after(self.block, function)
            case "discovered":
                return lambda: self._after(self.block_undeclared, function)
            case _:
                return lambda: self._on_spare(function)

    def task(self, function: Callable[[], object]) -> asyncio.Task[None]:
        """A task that calls the function in that place; the caller awaits it."""

        async def calls() -> None:
            self.go(function)()

        task = asyncio.create_task(calls())
        with self.away():
            pass
        return task

    @staticmethod
    def _after(block: Callable[[], object], function: Callable[[], object]) -> None:
        block()
        function()

    def _on_spare(self, function: Callable[[], object]) -> None:
        assert _thread.get_ident() != self.home
        function()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """The calling step, at home, blocks after this until the loop has done everything else that is ready: so that
        is done on a spare."""
        if self.name != "spare":
            yield
            return
        assert _thread.get_ident() == self.home
        with self._pipe() as reader:
            yield
            os.read(reader, 1)

    @contextlib.contextmanager
    def _pipe(self) -> Iterator[int]:
        reader, writer = os.pipe()
        loop = asyncio.get_running_loop()
        try:
            # In the turn after the next: what is ready, and what that makes ready, comes first.
            loop.call_soon(loop.call_soon, loop.call_soon, os.write, writer, b"x")
            yield reader
        finally:
            os.close(reader)
            os.close(writer)


NAMES = ["home", "spare", "blocked", "discovered"]
"""In which ways a scene is played on our loop."""


def outcome(setting: Setting, main: Callable[[Setting], Awaitable[Any]]) -> Any:
    """What a scene comes to: what it returns, or the exception, by type and arguments."""
    try:
        return setting.run(main)
    except BaseException as exc:
        return shape(exc)


def shape(exc: BaseException | None) -> Any:
    """An exception as something that compares; the parts of a group are in no order."""
    if isinstance(exc, BaseExceptionGroup):
        return type(exc), sorted((shape(part) for part in exc.exceptions), key=repr)
    return (type(exc), exc.args) if exc is not None else None


def agree(setting: Setting, main: Callable[[Setting], Awaitable[Any]]) -> Any:
    """Play a scene on asyncio's loop and on ours.  Returns what it comes to on both."""
    expected = outcome(Setting("asyncio"), main)
    assert outcome(setting, main) == expected
    assert not lwps()
    gc.collect()  # what nobody retrieves is told here, and not in some other test
    return expected
