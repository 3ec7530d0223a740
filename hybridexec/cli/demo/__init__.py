"""``hybridexec demo``: one service, unchanged, run by ``python`` and by ``hybridexec run``, under the same load."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import h11

from ..table import console
from . import service as program
from .clients import Load
from .comparison import Result, percentile, side_by_side
from .process import ServiceError, serving
from .progression import Progression

UPSTREAM_DELAY = 0.03
"""Seconds that the slow server, which the service asks, takes for an answer."""


def run(seconds: float, connections: int) -> None:
    """Run the demo and print what came of it.

    Args:
        seconds: how long each loop is loaded.
        connections: how many clients there are.

    Raises:
        SystemExit: 1 if a service failed, 130 at Ctrl-C.
    """
    out = console(sys.stdout)
    out.print(
        "A service whose async def handlers block: in time.sleep, sqlite3, http.client, and on a threading.Lock.\n"
        f"{connections} clients load it on asyncio's loop, and then, unchanged, on hybridexec's: {seconds:g} s each."
    )
    try:
        default, ours = asyncio.run(_compare(seconds, connections))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (ServiceError, OSError, h11.RemoteProtocolError) as exc:
        raise SystemExit(f"hybridexec: the demo failed: {exc}") from None
    out.print(side_by_side(default, ours))
    out.print(
        f"A stall: the loop ran nothing for more than {program.LATE * 1000:.0f} ms.\n"
        "On asyncio's loop each handler that blocks is one; on ours it is the machine that had none to spare.\n"
        f"The service: {program.__file__}\n"
        "For yours: hybridexec run --report SCRIPT, or hybridexec run --report -m uvicorn app:app"
    )


async def _compare(seconds: float, connections: int) -> tuple[Result, Result]:
    # The launchers of the same program.
    launchers: dict[str, tuple[str, ...]] = {"asyncio": (), "hybridexec": ("-m", "hybridexec", "run")}
    with (
        tempfile.TemporaryDirectory(prefix="hybridexec-demo-") as folder,
        Progression(console(sys.stderr), launchers, seconds) as progression,
    ):
        # A copy: the program of a user, not a part of this package.
        script = str(shutil.copy(program.__file__, Path(folder, "service.py")))
        async with _upstream() as upstream:

            async def measure(name: str) -> Result:
                arguments = (script, f"{folder}/{name}.db", str(upstream))
                async with serving(sys.executable, *launchers[name], *arguments) as service:
                    load = Load(service.port, seconds, connections)
                    async with progression.of(name, load):
                        await load.run()
                return _result(load, service.summary)

            return await measure("asyncio"), await measure("hybridexec")


def _result(load: Load, summary: dict[str, float]) -> Result:
    return Result(
        rate=len(load.latencies) / load.elapsed,
        p50=percentile(load.latencies, 0.50),
        p99=percentile(load.latencies, 0.99),
        failures=load.failures,
        stalls=int(summary["stalls"]),
        stalled=summary["stalled"],
        longest=summary["longest"],
    )


@contextlib.asynccontextmanager
async def _upstream() -> AsyncIterator[int]:
    """A slow HTTP server, on this process's loop; gives its port."""
    writers: set[asyncio.StreamWriter] = set()
    ending = False

    async def answer(path: str) -> tuple[int, bytes]:
        await asyncio.sleep(UPSTREAM_DELAY)
        return 200, b"slow"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if ending:  # it was accepted at the last moment
            writer.transport.abort()
            return
        writers.add(writer)
        try:
            await program.converse(reader, writer, answer)
        finally:
            writers.discard(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=program.BACKLOG)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        ending = True
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()
