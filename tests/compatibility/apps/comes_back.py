"""A step that blocks until another one has run, and goes on with what a tool may want to see."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time

import hybridexec


async def blocks(gate: threading.Event) -> str:
    """Comes back on a spare, or wherever the loop is then."""
    gate.wait()
    seen = "after the block"
    return seen  # the breakpoint


async def main() -> None:
    """The loop moves; then it waits for whoever looks at it, if one is told to."""
    gate = threading.Event()
    task = asyncio.create_task(blocks(gate), name="blocker")
    await asyncio.sleep(0)
    if "--hold" in sys.argv:
        print("held", os.getpid(), flush=True)
        sys.stdin.readline()
    asyncio.get_running_loop().call_soon(gate.set)
    print(await task, flush=True)
    time.sleep(0.001)


if __name__ == "__main__":
    hybridexec.run(main())
