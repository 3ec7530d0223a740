"""Ctrl-C, asyncio.run's way: the first one cancels the main task, the second one raises KeyboardInterrupt."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from helpers import pipe, running_loop

import hybridexec
from hybridexec import LwpState

from .shared import (
    Block,
    Held,
    acquire,
    at_home,
    current_task,
    enter,
    has_the_loop,
    home_of,
    interrupt,
    is_returning,
    locked,
    read,
    rounds,
    run_until_ctrl_c,
)


@rounds(30)
def main_task_is_elsewhere() -> None:
    """Only what the main task does when it is cancelled releases the home."""
    lock = locked()

    async def blocks() -> None:
        assert at_home()
        lock.acquire()

    async def main() -> None:
        task = asyncio.create_task(blocks())
        await asyncio.sleep(0)
        assert not at_home()
        interrupt()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert not at_home()
            lock.release()
            await task
            raise

    run_until_ctrl_c(main())


def sleep_again_and_again(held: Held) -> None:
    """Block in one call after the other, until it is released."""
    while not held.released:
        time.sleep(0.002)


def sleep_for_a_minute(held: Held) -> None:
    """Block in a call that nothing but a signal ends in time."""
    time.sleep(60)


def unlock(held: Held) -> None:
    """Release a step that waits for the lock."""
    held.lock.release()


def write(held: Held) -> None:
    """Release a step that reads."""
    os.write(held.writer, b"x")


def let(held: Held) -> None:
    """Release a step that sleeps."""
    held.released = True


BLOCKS: dict[str, tuple[Block, Callable[[Held], None]]] = {
    "lock.acquire()-lock.release()": (acquire, unlock),
    "os.read(reader, 1)-os.write(writer, b'x')": (read, write),
    "time.sleep(0.002)-released = True": (sleep_again_and_again, let),
    "lock.__enter__()-lock.release()": (enter, unlock),
}
"""What the main task blocks in, and what releases it."""


@rounds(20)
def main_task_is_blocked(how: str) -> None:
    """As on asyncio it gets its cancellation at its next await: the blocking call itself continues."""
    block, release = BLOCKS[how]
    order: list[str] = []

    async def releases(task: asyncio.Task[Any], held: Held) -> None:
        assert not at_home()
        interrupt()
        while not task.cancelling():
            await asyncio.sleep(0)
        order.append("is cancelled")
        release(held)

    async def main(held: Held) -> None:
        helper = asyncio.create_task(releases(current_task(), held))
        block(held)
        order.append("resumes")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            order.append("is told")
            await helper
            raise

    with pipe() as ends:
        run_until_ctrl_c(main(Held(*ends)))
    assert order == ["is cancelled", "resumes", "is told"], order


@rounds(20)
def home_is_parked() -> None:
    """Prints "parked is told" if the home was parked: its call may also have returned too late."""
    order: list[str] = []

    async def away(main_task: asyncio.Task[Any]) -> None:
        loop = running_loop()
        assert not at_home()
        os.write(writer, b"x")
        loop.call_soon(threading.Thread(target=frees).start)
        os.read(reader2, 1)  # returns while the home polls
        home = home_of(loop)
        if at_home() or is_returning(home):
            return
        with hybridexec.pinned():
            loop._write_to_self()  # ends the home's poll, and the home does not get the loop
            while home.state is not LwpState.PARKED:
                if is_returning(home):
                    return  # its call has returned late
            interrupt()
            while not main_task.cancelling():
                pass
        order.append("parked")

    def frees() -> None:
        time.sleep(0.005)
        os.write(writer2, b"x")

    async def main() -> None:
        task = asyncio.create_task(away(current_task()))
        assert at_home()
        os.read(reader, 1)
        try:
            await task
            interrupt()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            order.append("is told")
            raise

    with pipe() as (reader, writer), pipe() as (reader2, writer2):
        run_until_ctrl_c(main())
    print(*order)


@rounds(20)
def home_waits_for_its_turn(times: int) -> None:
    """The call of the home's step has returned, and the home queues; another step holds the loop."""
    order: list[str] = []

    async def holds(main_task: asyncio.Task[Any]) -> None:
        assert not at_home()
        home = home_of(asyncio.get_running_loop())
        with hybridexec.pinned():
            os.write(writer, b"x")
            while home.state is not LwpState.RETURNING:
                pass
            interrupt()
            while not main_task.cancelling():
                pass
            if times == 2:
                interrupt()
                while home.interrupt is None:
                    pass
            order.append("holds")

    async def main() -> None:
        helper = asyncio.create_task(holds(current_task()))
        try:
            os.read(reader, 1)
            order.append("resumes")
            await asyncio.Event().wait()
        except BaseException as exc:
            order.append(type(exc).__name__)
            raise
        await helper

    with pipe() as (reader, writer):
        run_until_ctrl_c(main())
    if times == 2:
        assert order == ["holds", "KeyboardInterrupt"], order
    else:
        assert order == ["holds", "resumes", "CancelledError"], order


@rounds(20)
def home_carries_a_busy_step() -> None:
    """A step computes until its task is cancelled."""
    order: list[str] = []

    async def main() -> None:
        task = current_task()
        time.sleep(0.001)
        while not at_home():
            await asyncio.sleep(0)
        threading.Thread(target=interrupt).start()
        while not task.cancelling():
            pass
        order.append("resumes")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            order.append("is told")
            raise

    run_until_ctrl_c(main())
    assert order == ["resumes", "is told"], order


ENDLESS: dict[str, Block] = {
    "lock.acquire()": acquire,
    "os.read(reader, 1)": read,
    "time.sleep(60)": sleep_for_a_minute,
}
"""Calls that nothing else would end."""


@rounds(20)
def second_breaks_the_call(how: str) -> None:
    """The call raises KeyboardInterrupt, as on asyncio."""
    block = ENDLESS[how]
    order: list[str] = []

    async def twice(task: asyncio.Task[Any]) -> None:
        assert not at_home()
        interrupt()
        while not task.cancelling():
            await asyncio.sleep(0)
        interrupt()

    async def main(held: Held) -> None:
        helper = asyncio.create_task(twice(current_task()))
        try:
            block(held)
        except KeyboardInterrupt:
            order.append("raised")
            assert has_the_loop()
            raise
        await helper

    with pipe() as ends:
        run_until_ctrl_c(main(Held(*ends)))
    assert order == ["raised"], order


def blocks_and_says_so(releases: bool) -> None:
    """The home is blocked; whether the main task releases it once it is cancelled.  Prints what happens."""
    lock = locked()

    async def blocks() -> None:
        try:
            lock.acquire()
        except KeyboardInterrupt:
            print("broken", flush=True)
            raise

    async def main() -> None:
        task = asyncio.create_task(blocks())
        await asyncio.sleep(0)
        print("ready", flush=True)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            print("cancelled", flush=True)
            if releases:
                lock.release()
            raise
        await task

    hybridexec.run(main())
