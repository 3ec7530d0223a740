"""The service as a child process, which ends when the demo does, however the demo ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

START = 30
"""Seconds that the service may take to start."""
STOP = 5
"""Seconds that it may take to end by itself."""


class ServiceError(Exception):
    """The service did not start, or did not end well."""


@dataclass
class Service:
    """A service that runs.

    Attributes:
        port: its port on this machine.
        summary: what it says of itself when it has ended.
    """

    port: int
    summary: dict[str, float] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def serving(*command: str) -> AsyncIterator[Service]:
    """Start a service, and end it on leaving.

    Args:
        *command: the command line that starts it.

    Yields:
        The service; its summary is there on leaving.

    Raises:
        ServiceError: it did not start, or did not end well.
    """
    # In a session of its own, so that Ctrl-C reaches the demo alone.  The end of its standard input ends the service:
    # that comes even if this process is killed.
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, start_new_session=True)
    try:
        service = Service(int(await _line(process, START, "did not start")))
        yield service
        _close_stdin(process)
        service.summary = json.loads(await _line(process, STOP, "did not end in time"))
        await _end(process)
    finally:
        if process.returncode is None:  # something went wrong, or Ctrl-C
            await _kill(process)


async def _line(process: Process, seconds: float, otherwise: str) -> bytes:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(seconds):
            line = await process.stdout.readline()
    except TimeoutError:
        line = b""
    if not line:
        raise ServiceError(f"the service {otherwise}")
    return line


def _close_stdin(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.close()


async def _end(process: Process) -> None:
    """Wait for its end."""
    try:
        async with asyncio.timeout(STOP):
            await process.wait()
    except TimeoutError:
        raise ServiceError("the service did not end in time") from None
    if process.returncode != 0:
        raise ServiceError(f"the service ended with status {process.returncode}")


async def _kill(process: Process) -> None:
    """Leave no process behind."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
