"""Functions that block and coroutines on one executor: readers, compressors, and a writer with an sqlite3 connection.

    hybridexec run examples/executor.py

The readers block (``time.sleep`` stands for a slow disk or a synchronous client), the compressors compute without the
GIL, and the writer owns a connection that only its own thread may use, so it is bound to one.  They hand things on by a
``queue.Queue``, which user threads and plain threads may share.  (``python examples/executor.py`` does the same: the
executor brings its own loops.)
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import time
import zlib

from hybridexec import HybridExecutor

DOCUMENTS = 40

packed: queue.Queue[tuple[int, bytes] | None] = queue.Queue(maxsize=8)


def read(number: int) -> bytes:
    """A plain function that blocks."""
    time.sleep(0.05)
    return f"document {number} ".encode() * 5_000


async def handle(executor: HybridExecutor, number: int) -> None:
    """A coroutine: it awaits a function, computes, and blocks when the writer does not keep up."""
    text = await executor.run(read, number)
    packed.put((number, zlib.compress(text)))


async def write() -> int:
    """The writer: every step is taken on the thread that has opened the connection."""
    connection = sqlite3.connect(":memory:")
    connection.execute("create table documents (number integer primary key, packed blob)")
    while (item := packed.get()) is not None:
        connection.execute("insert into documents values (?, ?)", item)
        await asyncio.sleep(0)
    (count,) = connection.execute("select count(*) from documents").fetchone()
    connection.close()
    return int(count)


def main() -> None:
    """Read, compress and write all documents."""
    with HybridExecutor() as executor:
        began = time.monotonic()
        writer = executor.spawn(write, name="writer", bound=True)
        handlers = [executor.spawn(handle, executor, number, name=f"handler-{number}") for number in range(DOCUMENTS)]
        for handler in handlers:
            handler.result()
        packed.put(None)
        count = writer.result()
        print(f"{count} documents in {time.monotonic() - began:.2f} s")
        print(f"{executor.stats().done} user threads are done")


if __name__ == "__main__":
    main()
