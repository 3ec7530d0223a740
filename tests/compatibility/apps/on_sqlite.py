"""sqlite3 with its own default for threads, and aiosqlite, on one file.  Each waits for what the other has locked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator

import aiosqlite
from routes import application

FILE = os.environ["DATABASE"]
shared = sqlite3.connect(FILE, timeout=60, isolation_level=None)  # made by the thread that runs the loop
holds = asyncio.Event()
waiting = 0


@contextlib.asynccontextmanager
async def table() -> AsyncIterator[None]:
    shared.execute("CREATE TABLE numbers (number integer)")
    shared.execute("INSERT INTO numbers VALUES (0)")
    yield
    shared.close()


async def locks() -> str:
    """Locks the file, by aiosqlite, until three are about to write."""
    async with aiosqlite.connect(FILE, isolation_level=None) as connection:
        await connection.execute("BEGIN IMMEDIATE")
        holds.set()
        while waiting < 3:
            await asyncio.sleep(0.01)
        await connection.execute("UPDATE numbers SET number = 10")
        await connection.execute("COMMIT")
    return "unlocked"


async def waits() -> str:
    """Blocks until the file is let go: by a connection of its own."""
    global waiting
    await holds.wait()
    with contextlib.closing(sqlite3.connect(FILE, timeout=60)) as connection, connection:
        waiting += 1
        (number,) = connection.execute("UPDATE numbers SET number = number + 1 RETURNING number").fetchone()
    return str(number)


async def shares() -> str:
    """By the one that all share, on whichever thread."""
    (number,) = shared.execute("UPDATE numbers SET number = number + 1 RETURNING number").fetchall()[0]
    return str(number)


app = application(locks, waits, shares, lifespan=table)
