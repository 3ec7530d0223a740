"""Steps that block, in every way, steps that compute, and steps that are on a spare."""

from __future__ import annotations

import _thread
import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from helpers import LIBC, Recorder, holds, pipe

import hybridexec
from hybridexec import HybridLoop

type Block = Callable[[int], None]
"""Blocks until something can be read from a file descriptor."""


def declared(reader: int) -> None:
    """Block in a call that the detector knows."""
    os.read(reader, 1)


def discovered(reader: int) -> None:
    """Block in one that it does not know."""
    LIBC.read(reader, b" ", 1)


def explicit(reader: int) -> None:
    """Block where the program says so."""
    with hybridexec.blocking():
        os.read(reader, 1)


SOON = 0.002
"""Seconds until a timer fires; nothing depends on how long that is."""

BLOCKS = pytest.mark.parametrize("block", [declared, discovered, explicit])
PLACES = pytest.mark.parametrize("place", ["home", "spare"])


class Step:
    """A callback that blocks until something is written, then goes on.

    Attributes:
        blocked: set when it is about to block.
        went_on: set when it has gone on, with the loop.
    """

    def __init__(self, loop: HybridLoop, then: Callable[[], object] = lambda: None) -> None:
        self.loop = loop
        self.then = then
        self.reader, self.writer = os.pipe()
        self.blocked = threading.Event()
        self.went_on = threading.Event()

    def __call__(self) -> None:
        self.blocked.set()
        os.read(self.reader, 1)
        assert holds(self.loop)
        self.went_on.set()
        self.then()

    def release(self) -> None:
        """Let it go on.  Any thread."""
        os.write(self.writer, b"x")

    def __enter__(self) -> Step:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.reader)
        os.close(self.writer)


def on_a_spare(loop: HybridLoop, *steps: Step) -> None:
    """Run the loop until steps are blocked on spares and the home is not: then it stops."""
    with Step(loop) as home:

        def stops() -> None:
            assert _thread.get_ident() != ident
            home.release()
            loop.stop()

        ident = _thread.get_ident()
        callbacks: list[Callable[[], object]] = [home, *steps, stops]
        for callback in callbacks:
            loop.call_soon(callback)
        loop.run_forever()
        assert home.went_on.is_set()
        assert all(step.blocked.is_set() and not step.went_on.is_set() for step in steps)


async def go(place: str, coroutine: Awaitable[None]) -> None:
    """Await something; on a spare if so wished, while the home is blocked until it is over."""
    if place == "home":
        assert _thread.get_ident() == threading.main_thread().ident
        await coroutine
        return
    with pipe() as (reader, writer):

        async def elsewhere() -> None:
            assert _thread.get_ident() != threading.main_thread().ident
            try:
                await coroutine
            finally:
                os.write(writer, b"x")

        task = asyncio.create_task(elsewhere())
        os.read(reader, 1)
        await task


async def elsewhere[T](coroutine: Coroutine[Any, Any, T]) -> T:
    """Await something on another thread than the calling one, which is blocked meanwhile.  Any step, anywhere."""
    with pipe() as (reader, writer):

        async def runs() -> T:
            try:
                return await coroutine
            finally:
                os.write(writer, b"x")

        task = asyncio.create_task(runs())
        os.read(reader, 1)
        return await task


def cancelling() -> int:
    """How many cancellations the current task has been asked for."""
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


def spin_until(condition: Callable[[], bool]) -> None:
    """Keep the loop until another thread has come to where it shall be."""
    while not condition():
        pass


class Spin:
    """A step that computes until another one ends it: on one loop it ends only if it is preempted."""

    def __init__(self) -> None:
        self._over = False

    async def spins(self) -> None:
        while not self._over:
            pass

    async def ends(self) -> None:
        """The other one."""
        self._over = True


def play_preempted() -> Recorder:
    """A task named "spins" is preempted for another that ends it; the upcalls."""
    recorder = Recorder()
    spin = Spin()

    async def main() -> None:
        await asyncio.gather(asyncio.create_task(spin.spins(), name="spins"), spin.ends())

    hybridexec.run(main(), preempt=0.01, instruments=[recorder])
    return recorder


async def block_the_home(release: Callable[[int], Any]) -> None:
    """Block the calling step on a pipe; a task that comes behind it calls ``release`` with the end to write to."""
    with pipe() as (reader, writer):

        async def releases() -> None:
            await release(writer)

        task = asyncio.create_task(releases())
        os.read(reader, 1)
        await task


async def write_to(writer: int) -> None:
    """Release who reads."""
    os.write(writer, b"x")
