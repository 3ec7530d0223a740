"""Rule 5: no surprise.

That the loop has moved is proved by causality: a step blocks on what only another task of the same loop can release.
"""

from __future__ import annotations

import _thread
import asyncio
import threading
import time
from time import monotonic

import pytest
from helpers import (
    running_loop,
)

import hybridexec
from hybridexec import UpcallKind

pytestmark = [pytest.mark.differs_by_engine, pytest.mark.differs_by_version]


def test_rule5_no_handoff_without_a_blocking_call() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()

    async def client(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(50):
            writer.write(b"%d\n" % number)
            assert await reader.readline() == b"%d\n" % number
            await asyncio.sleep(0)
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        idents = {_thread.get_ident()}
        lock = threading.Lock()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        await asyncio.gather(*(client(server.sockets[0].getsockname()[1]) for _ in range(10)))
        for _ in range(100):
            with lock:
                idents.add(_thread.get_ident())
            time.sleep(0)
            await asyncio.sleep(0)
        server.close()
        await server.wait_closed()
        stats = running_loop().stats()
        assert stats.handoffs == 0
        assert stats.upcalls[UpcallKind.BLOCKED] == 0
        assert stats.upcalls[UpcallKind.LWP_STARTED] == 0
        assert stats.lwps_alive == 1
        assert idents == {_thread.get_ident()}

    hybridexec.run(main())


def test_rule5_python_code_is_not_interrupted() -> None:
    ran_meanwhile = 0
    computing = False

    def other() -> None:
        nonlocal ran_meanwhile
        ran_meanwhile += computing

    async def computes() -> int:
        nonlocal computing
        computing = True
        until = monotonic() + 0.15
        count = 0
        while monotonic() < until:
            count += sum(range(100))
        computing = False
        return count

    async def main() -> None:
        loop = running_loop()
        task = asyncio.create_task(computes())
        for number in range(20):
            loop.call_soon(other)
            loop.call_later(number * 0.005, other)
        assert await task > 0
        stats = loop.stats()
        assert stats.handoffs == 0
        assert stats.upcalls[UpcallKind.BLOCKED] == 0
        assert stats.upcalls[UpcallKind.PREEMPTED] == 0

    hybridexec.run(main())
    assert ran_meanwhile == 0


def test_rule5_a_lone_step_is_not_preempted() -> None:
    async def main() -> None:
        until = monotonic() + 0.1
        while monotonic() < until:
            pass
        stats = running_loop().stats()
        assert stats.handoffs == 0

    hybridexec.run(main(), preempt=0.01)
