"""What the programs share: signals that they send themselves, and questions about the loop."""

from __future__ import annotations

import _thread
import asyncio
import functools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from helpers import LIBC, running_loop

import hybridexec
from hybridexec import HybridLoop, LwpState
from hybridexec.protocol.lwp import LWP

MAIN = threading.main_thread()

type Block = Callable[[Held], object]
"""Blocks until what it blocks on is released."""


def rounds[**P](times: int) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """A decorator: the program plays this function so many times."""

    def decorate(function: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(function)
        def program(*args: P.args, **kwargs: P.kwargs) -> None:
            for _ in range(times):
                function(*args, **kwargs)

        return program

    return decorate


def at_home() -> bool:
    """Whether the main thread carries the calling step."""
    return _thread.get_ident() == MAIN.ident


def interrupt(number: int = signal.SIGINT) -> None:
    """Send a signal to the main thread.  Any thread."""
    assert MAIN.ident is not None
    signal.pthread_kill(MAIN.ident, number)


def home_of(loop: asyncio.AbstractEventLoop) -> LWP:
    """The home of a loop that runs."""
    assert isinstance(loop, HybridLoop)
    home = loop._carrying.home
    assert home is not None
    return home


def has_the_loop() -> bool:
    """Whether the calling thread is the one that carries the loop."""
    return running_loop()._carrying.holder_ident == _thread.get_ident()


def is_returning(lwp: LWP) -> bool:
    """Whether the call of its step has returned, and it queues for the loop."""
    return lwp.state is LwpState.RETURNING


def in_state(home: LWP, *states: LwpState) -> None:
    """Wait until an LWP is in one of these states."""
    while home.state not in states:
        time.sleep(0)


def current_task() -> asyncio.Task[Any]:
    """The task of the calling step."""
    task = asyncio.current_task()
    assert task is not None
    return task


def locked() -> threading.Lock:
    """A lock that nobody has released yet."""
    lock = threading.Lock()
    lock.acquire()
    return lock


def chance() -> random.Random:
    """Draws; its seed is printed."""
    seed = random.randrange(2**32)
    print("seed", seed)
    return random.Random(seed)


def run_until_ctrl_c(main: Coroutine[Any, Any, object]) -> None:
    """Run a loop that only Ctrl-C can end."""
    try:
        hybridexec.run(main)
    except KeyboardInterrupt:
        return
    raise SystemExit("no KeyboardInterrupt")


class Held:
    """What a step blocks on: a lock that is held, and a pipe with nothing in it."""

    def __init__(self, reader: int, writer: int) -> None:
        self.lock = locked()
        self.reader = reader
        self.writer = writer
        self.released = False


def acquire(held: Held) -> None:
    """Block in a method that the detector knows."""
    held.lock.acquire()


def enter(held: Held) -> None:
    """Block where a ``with`` statement would."""
    held.lock.__enter__()


def read(held: Held) -> None:
    """Block in a function that the detector knows."""
    os.read(held.reader, 1)


def read_by_libc(held: Held) -> None:
    """Block in a function that the detector does not know."""
    LIBC.read(held.reader, b" ", 1)


def acquire_in_a_region(held: Held) -> None:
    """Block where the program says so."""
    with hybridexec.blocking():
        held.lock.acquire()


def read_in_a_region(held: Held) -> None:
    """Block where the program says so."""
    with hybridexec.blocking():
        os.read(held.reader, 1)
