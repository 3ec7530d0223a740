"""A ``threading.Lock`` held across an ``await`` and wanted by another task: asyncio's loop would wait for ever.

    hybridexec run examples/lock.py

The second task waits for the lock and so freezes the loop; the first would release it, but its turn never comes.  With
hybridexec the loop moves away from the second, and the first goes on.  (``python examples/lock.py`` hangs: end it by
Ctrl-C, twice.)
"""

from __future__ import annotations

import asyncio
import threading

lock = threading.Lock()


async def update(name: str) -> None:
    """Do something in two steps that nobody else may see between."""
    print(f"{name} wants the lock", flush=True)
    with lock:
        print(f"{name} has it", flush=True)
        await asyncio.sleep(0.1)
    print(f"{name} has released it", flush=True)


async def main() -> None:
    """Two tasks, one lock."""
    await asyncio.gather(update("first"), update("second"))


asyncio.run(main())
