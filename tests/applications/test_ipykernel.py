"""ipykernel, without Jupyter's pages: a cell blocks until a task in the background has run."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from compatibility.service import LIMIT
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager

from applications.running import APPS, RUN, VARIABLES

CELL = """
import asyncio
from blocking import shelf
async def put():
    await asyncio.sleep(0)
    shelf.put("a word")
task = asyncio.create_task(put())
print(shelf.get())  # the task's first step comes after this line has begun to block, or never
"""


@pytest.fixture
def kernel(engine: str, tmp_path: Path) -> Iterator[KernelManager]:
    """A kernel that runs; it is gone afterwards."""
    with zmq.Context() as context:
        manager = KernelManager(context=context, connection_file=os.fspath(tmp_path / "kernel.json"))
        assert manager.kernel_spec
        manager.kernel_spec.argv = [sys.executable, *RUN, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        variables = {**os.environ, **VARIABLES, "HYBRIDEXEC_ENGINE": engine, "IPYTHONDIR": os.fspath(tmp_path)}
        manager.start_kernel(cwd=os.fspath(APPS), env=variables)
        try:
            yield manager
        finally:
            if manager.is_alive():
                manager.shutdown_kernel(now=True)
            manager.cleanup_resources()


@pytest.fixture
def client(kernel: KernelManager) -> Iterator[BlockingKernelClient]:
    """Who runs cells."""
    client = kernel.client()
    client.start_channels()
    client.wait_for_ready(timeout=LIMIT)
    yield client
    client.stop_channels()


def run(client: BlockingKernelClient, cell: str) -> tuple[dict[str, Any], str]:
    """Run a cell.  Returns the reply, and what it has printed."""
    printed: list[str] = []

    def output(message: dict[str, Any]) -> None:
        printed.append(message["content"].get("text", ""))

    reply = client.execute_interactive(cell, timeout=LIMIT, output_hook=output)
    return reply["content"], "".join(printed)


def test_cells_wait_for_tasks(kernel: KernelManager, client: BlockingKernelClient) -> None:
    for _ in range(3):
        reply, printed = run(client, CELL)
        assert (reply["status"], printed) == ("ok", "a word\n")
    reply, printed = run(client, "print(await asyncio.to_thread(lambda: 7))")
    assert (reply["status"], printed) == ("ok", "7\n")


@pytest.mark.parametrize("waits", ["shelf.get()", "await asyncio.Event().wait()", "while True: pass"])
def test_interrupts(kernel: KernelManager, client: BlockingKernelClient, waits: str) -> None:
    def interrupt(message: dict[str, Any]) -> None:
        if message["content"].get("text") == "begun\n":
            kernel.interrupt_kernel()

    cell = f"import asyncio\nfrom blocking import shelf\nprint('begun', flush=True)\n{waits}"
    reply = client.execute_interactive(cell, timeout=LIMIT, output_hook=interrupt)
    assert reply["content"]["status"] == "error"
    assert reply["content"]["ename"] in ("KeyboardInterrupt", "CancelledError")
    assert run(client, CELL)[1] == "a word\n"
    kernel.signal_kernel(signal.SIGTERM)
    kernel.provisioner.process.wait(LIMIT)
