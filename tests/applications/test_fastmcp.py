"""fastmcp: a tool blocks until another one is called, by stdio and by streamable HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest
from compatibility.service import LIMIT
from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from applications.running import APPS, INTERRUPTED, RUN, VARIABLES, application


async def tools_wait_for_each_other(client: Client) -> None:
    """Four calls that block, then the four that let them go, all in one session."""
    async with asyncio.timeout(LIMIT), client:
        assert sorted(tool.name for tool in await client.list_tools()) == ["put", "take"]
        taken = [asyncio.create_task(client.call_tool("take")) for _ in range(4)]
        assert [(await client.call_tool("put", {"word": w})).data for w in "abcd"] == [f"put {w}" for w in "abcd"]
        assert sorted([(await task).data for task in taken]) == list("abcd")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, (0, 130, -2)), (signal.SIGTERM, (0, -15))])
def test_by_http(engine: str, number: signal.Signals, status: tuple[int, ...]) -> None:
    with application("with_fastmcp.py", engine=engine, TRANSPORT="http") as service:
        asyncio.run(tools_wait_for_each_other(Client(f"{service.url}/mcp")))
        but = INTERRUPTED if number == signal.SIGINT else []
        service.stop_well(number, status=status, but=but)


def test_by_stdio(engine: str) -> None:
    variables = {**os.environ, **VARIABLES, "HYBRIDEXEC_ENGINE": engine, "TRANSPORT": "stdio"}
    transport = StdioTransport(
        sys.executable, [*RUN, "with_fastmcp.py"], env=variables, cwd=os.fspath(APPS), keep_alive=False
    )
    asyncio.run(tools_wait_for_each_other(Client(transport)))
