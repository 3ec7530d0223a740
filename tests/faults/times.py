"""Time goes by otherwise than usual: the clock is set, the process is suspended, the GIL is held."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import hybridexec

from .scene import blocks, main, program, relays, right

PYTHON = ctypes.PyDLL(None)
"""Calls through it keep the GIL."""


@program
def clock_set(rounds: str = "40") -> None:
    """The clock of the day is set back and forth by hours, as far as the process can tell."""
    compiler = shutil.which("cc")
    if compiler is None:
        print("skipped: there is no C compiler")
        return
    with tempfile.TemporaryDirectory() as folder:
        library, offset = f"{folder}/clock.so", f"{folder}/seconds"
        source = str(Path(__file__).with_name("clock.c"))
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        Path(offset).write_bytes(struct.pack("l", 0))
        command = [sys.executable, "-m", "tests.faults.times", "with_a_clock_that_is_set", offset, rounds]
        subprocess.run(command, check=True, env={**os.environ, "LD_PRELOAD": library, "CLOCK_SECONDS": offset})


@program
def with_a_clock_that_is_set(file: str, rounds: str) -> None:
    """The process in which it is."""

    async def scene() -> None:
        timer = asyncio.get_running_loop().call_later(1000, lambda: 1 / 0)
        for number in range(int(rounds)):
            before = time.time()
            with open(file, "r+b", buffering=0) as offset:
                offset.write(struct.pack("l", (number % 7 - 3) * 5 * 3600))
            jumps.append(time.time() - before)
            right(await blocks(4, 1), 4)
            await asyncio.wait_for(relays(1), 300)  # no timeout comes too early
        timer.cancel()

    jumps: list[float] = []
    hybridexec.run(scene())
    assert max(jumps) > 3600, "the clock was not set"
    assert min(jumps) < -3600, "the clock was not set back"


@program
def suspended(seconds: str = "2") -> None:
    """The process is stopped and continued, while steps block and a timer is due."""

    async def scene() -> None:
        due = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.5, due.set_result, None)
        stopper = subprocess.Popen(["sh", "-c", f"kill -STOP {os.getpid()}; sleep {seconds}; kill -CONT {os.getpid()}"])
        rounds = 0
        while stopper.poll() is None or rounds < 5:
            right(await blocks(8, 1), 8)
            rounds += 1
        await due
        await relays()

    began = time.monotonic()
    hybridexec.run(scene())
    assert time.monotonic() - began >= float(seconds)


@program
def gil_held(seconds: str = "2") -> None:
    """C code holds the GIL, at home, on a spare, and on a thread beside the loop."""

    def hold() -> None:
        PYTHON.usleep(int(float(seconds) * 1e6 / 3))

    async def holds() -> None:
        hold()

    async def scene() -> None:
        beside = threading.Thread(target=hold)
        beside.start()
        results = await asyncio.gather(holds(), blocks(8, 2), holds())
        right(results[1], 8)
        await relays()
        beside.join()

    hybridexec.run(scene())


if __name__ == "__main__":
    main()
