"""What the programs of the faults share: tasks that block, and how a program is run and ends.

A program is a function of one of the modules beside this one.  It brings its fault about, looks whether all is right,
and raises if not.  The engine is that of the environment (``HYBRIDEXEC_ENGINE``).
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import hybridexec

LIBC = ctypes.CDLL(None)
"""Calls through it let the GIL go, and are in no catalogue."""

ENGINE = os.environ.get("HYBRIDEXEC_ENGINE", "native")

LIMIT = float(os.environ.get("FAULTS_LIMIT", "60"))
"""Seconds after which a program hangs."""

REFUSALS = (MemoryError, RuntimeError, OSError)
"""What a task may get if the system has refused it something."""

_programs: dict[str, Callable[..., None]] = {}


def program(function: Callable[..., None]) -> Callable[..., None]:
    """A decorator: it is a program, by its name."""
    _programs[function.__name__] = function
    return function


def main() -> None:
    """Run the program that the command line names, with its arguments; it is over when it has said so."""
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    _programs[sys.argv[1]](*sys.argv[2:])
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("hybridexec-lwp-")]
    assert not left, left
    print("over", flush=True)


async def blocks(count: int, times: int = 3, seconds: float = 0.005) -> list[Any]:
    """Tasks that block in calls which end by themselves, every other one undeclared; what each came to."""

    async def one(number: int) -> int:
        for _ in range(times):
            time.sleep(seconds)
            await asyncio.sleep(0)
            LIBC.usleep(int(seconds * 1e6))
            await asyncio.sleep(0)
        return number

    return await asyncio.gather(*map(one, range(count)), return_exceptions=True)


async def relays(count: int = 3) -> None:
    """Tasks that block until another task releases them: the loop moves, or this never ends."""

    async def waits(lock: threading.Lock, reader: int) -> None:
        lock.acquire()
        await asyncio.sleep(0)
        while LIBC.read(reader, ctypes.create_string_buffer(1), 1) != 1:  # a signal has ended it
            pass

    async def releases(lock: threading.Lock, writer: int) -> None:
        lock.release()
        await asyncio.sleep(0.001)
        os.write(writer, b"x")

    for _ in range(count):
        lock = threading.Lock()
        lock.acquire()
        reader, writer = os.pipe()
        try:
            await asyncio.gather(waits(lock, reader), releases(lock, writer))
        finally:
            os.close(reader)
            os.close(writer)


def right(results: list[Any], count: int, *allowed: type[BaseException]) -> int:
    """Check that tasks have come to what they should, or to an exception that is allowed; how many did the latter."""
    assert len(results) == count
    failed = 0
    for number, result in enumerate(results):
        if isinstance(result, BaseException):
            assert isinstance(result, allowed), repr(result)
            failed += 1
        else:
            assert result == number
    return failed


def in_child(function: Callable[[], object], limit: int = 20) -> int:
    """Call a function in a forked child; its exit status: 0 if all was right, negative if a signal has ended it."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            # (the watchdog thread is the parent's)
            faulthandler.register(signal.SIGALRM, chain=True)
            signal.alarm(limit)
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_blocks(count: int = 8, **options: Any) -> list[Any]:
    """Run a loop of tasks that block."""
    return hybridexec.run(blocks(count), **options)
