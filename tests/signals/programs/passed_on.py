"""Ctrl-C more than once, while the main task is blocked on a spare: no signal can break its call off.

The call ends because the log has said that it is waited for: each program releases the main task when it hears that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import pipe

import hybridexec
from hybridexec import HybridLoop, LwpState
from hybridexec.protocol.lwp import LWP

from .shared import Block, Held, at_home, current_task, home_of, interrupt, read, read_by_libc, read_in_a_region

PROGRAMS = str(Path(__file__).parent)

BLOCKS: dict[str, Block] = {
    "os.read(reader, 1)": read,
    "LIBC.read(reader, b' ', 1)": read_by_libc,
    "region(reader)": read_in_a_region,
}
"""What the main task blocks in."""


class Tells(logging.Handler):
    """Hears what the log says about the main task.

    Attributes:
        order: what has happened: what the log has said, and what the program adds.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        super().__init__()
        self.order: list[str] = []
        self._tell = tell
        logging.getLogger("hybridexec").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        assert asyncio.get_running_loop()  # in a step
        what = " waits" if "gets it when" in record.msg else " ends"
        self.order.append(record.getMessage().split(":")[0] + what)
        self._tell(record.msg)

    async def on_a_spare(self, times: int) -> None:
        """Come to be on a spare, with an idle home; Ctrl-C comes so many times when the calling step has blocked."""
        loop = asyncio.get_running_loop()
        kept, keeper = os.pipe()
        loop.call_soon(os.read, kept, 1)
        await asyncio.sleep(0)
        assert not at_home()
        thread = threading.Thread(target=self._interrupts, args=(loop, current_task(), times))
        loop.call_soon(thread.start)
        loop.call_soon(os.write, keeper, b"x")

    def _interrupts(self, loop: HybridLoop, task: asyncio.Task[Any], times: int) -> None:
        idle(loop)
        interrupt()
        while not task.cancelling():
            time.sleep(0.001)
        for _ in range(times - 1):
            said = len(self.order)
            idle(loop)
            interrupt()
            while len(self.order) == said:
                time.sleep(0.001)


def idle(loop: HybridLoop) -> None:
    """Wait until the home polls, and all others are in their calls."""
    home = home_of(loop)
    while home.state is not LwpState.POLLING or not all(map(in_its_call, list(loop._carrying.detached))):
        time.sleep(0.001)


def in_its_call(lwp: LWP) -> bool:
    """Whether a program's own code has made the call that the LWP is in."""
    return sys._current_frames()[lwp.ident].f_code.co_filename.startswith(PROGRAMS)


def second_comes_up(how: str) -> None:
    """The second Ctrl-C is raised when the call has ended.  The loop runs meanwhile."""
    block = BLOCKS[how]

    async def main(held: Held) -> None:
        await tells.on_a_spare(2)
        try:
            block(held)
        except BaseException as exc:
            tells.order.append(type(exc).__name__)
            raise

    with pipe() as (reader, writer):
        tells = Tells(lambda message: os.write(writer, b"x"))
        try:
            hybridexec.run(main(Held(reader, writer)))
        except KeyboardInterrupt:
            tells.order.append("run")
    assert tells.order == ["KeyboardInterrupt waits", "KeyboardInterrupt", "run"], tells.order


def third_ends_the_run() -> None:
    """The main task is still blocked, and has its cancellation."""

    def tell(message: str) -> None:
        if "the run ends" in message:
            tells.order.append("releases")
            os.write(writer, b"x")

    async def main() -> None:
        await tells.on_a_spare(3)
        try:
            os.read(reader, 1)
            await asyncio.sleep(0)
        except BaseException as exc:
            tells.order.append(type(exc).__name__)
            raise

    tells = Tells(tell)
    with pipe() as (reader, writer):
        try:
            hybridexec.run(main())
        except KeyboardInterrupt as exc:
            tells.order.append("run")
            assert type(exc.__context__) is KeyboardInterrupt
    ended = ["KeyboardInterrupt waits", "KeyboardInterrupt ends", "releases", "CancelledError", "run"]
    assert tells.order == ended, tells.order


def step_raises_something_else() -> None:
    """What was passed on is raised out of the run."""

    def tell(message: str) -> None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()

    async def main() -> None:
        await tells.on_a_spare(2)
        try:
            client.recv(1)
        except ConnectionResetError:
            tells.order.append("fails")
        await asyncio.sleep(0)

    tells = Tells(tell)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        peer, _ = server.accept()
        try:
            hybridexec.run(main())
        except KeyboardInterrupt:
            tells.order.append("run")
    assert tells.order == ["KeyboardInterrupt waits", "fails", "run"], tells.order
