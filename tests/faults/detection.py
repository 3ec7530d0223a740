"""The detector is deprived of what it needs: its thread, its place in sys.monitoring."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import hybridexec
from hybridexec import detector

from .scene import LIBC, blocks, main, program, relays, right

E = sys.monitoring.events


def _fresh_discovery() -> Any:
    """A coroutine function whose code is new: it blocks in an undeclared call, until another task ends that."""
    source = """
async def scene(asyncio, os, libc):
    reader, writer = os.pipe()
    async def waits():
        libc.read(reader, b" ", 1)
    async def releases():
        os.write(writer, b"x")
    await asyncio.gather(waits(), releases())
    os.close(reader)
    os.close(writer)
"""
    names: dict[str, Any] = {}
    exec(source, names)
    return names["scene"](asyncio, os, LIBC)


def _sampler() -> threading.Thread:
    return next(thread for thread in threading.enumerate() if thread.name == "hybridexec-sampler")


@program
def sampler_dies(times: str = "10") -> None:
    """An exception comes up on the sampler's thread: it, or another one, discovers blocks afterwards."""

    async def scene() -> None:
        for number in range(int(times)):
            await _fresh_discovery()
            error = (SystemExit, MemoryError, KeyboardInterrupt)[number % 3]
            thread = _sampler()
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(error))
            right(await blocks(4, 1), 4)
            await _fresh_discovery()

    logging.disable(logging.CRITICAL)
    hybridexec.run(scene())


def _frees() -> None:
    sys.monitoring.free_tool_id(detector.tool.id)


def _clears() -> None:
    sys.monitoring.set_events(detector.tool.id, 0)


def _replaces() -> None:
    for event in (E.CALL, E.C_RETURN, E.C_RAISE, E.PY_START, E.LINE, E.INSTRUCTION):
        sys.monitoring.register_callback(detector.tool.id, event, lambda *args: None)


def _disables() -> None:
    for event in (E.CALL, E.PY_START, E.INSTRUCTION):
        sys.monitoring.register_callback(detector.tool.id, event, lambda *args: sys.monitoring.DISABLE)


def _takes() -> None:
    tool = detector.tool.id
    sys.monitoring.free_tool_id(tool)
    sys.monitoring.use_tool_id(tool, "another")
    sys.monitoring.set_events(tool, 0)


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@program
def monitoring_taken(times: str = "3") -> None:
    """Somebody takes sys.monitoring away while steps block: detection may be lost, which is said once."""
    for way in (_frees, _clears, _replaces, _disables, _takes):
        for _ in range(int(times)):
            _play_taken(way)


def _play_taken(way: Callable[[], None]) -> None:
    log = _Lines()
    logger = logging.getLogger("hybridexec")
    logger.addHandler(log)

    async def region() -> None:
        lock = threading.Lock()
        lock.acquire()

        async def waits() -> None:
            with hybridexec.blocking():  # needs no detector
                lock.acquire()

        async def releases() -> None:
            lock.release()

        await asyncio.gather(waits(), releases())

    async def scene() -> None:
        await relays(1)
        tool = detector.tool.id
        under_way = asyncio.create_task(blocks(8, 5))
        await asyncio.sleep(0.004)
        way()
        right(await under_way, 8)
        await region()
        while not any("sys.monitoring" in line for line in log.lines):
            await asyncio.sleep(0.01)
        right(await blocks(4, 3), 4)
        await asyncio.sleep(0.1)
        if sys.monitoring.get_tool(tool) == "another":
            sys.monitoring.free_tool_id(tool)

    hybridexec.run(scene())
    logger.removeHandler(log)
    said = [line for line in log.lines if "sys.monitoring" in line]
    assert len(said) == 1, log.lines
    assert all(sys.monitoring.get_tool(tool) != "hybridexec" for tool in range(6))
    hybridexec.run(relays(1))  # the next one has its own again


if __name__ == "__main__":
    main()
