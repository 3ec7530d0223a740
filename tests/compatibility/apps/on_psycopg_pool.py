"""psycopg's pools, sync and async.  A handler that finds a pool empty blocks until another one gives back."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from psycopg_pool import AsyncConnectionPool, ConnectionPool
from routes import application

URL = os.environ["DATABASE"]
SIZE = {"min_size": 1, "max_size": 1, "kwargs": {"application_name": "pooled"}}

pool = ConnectionPool(URL, open=False, **SIZE)
async_pool = AsyncConnectionPool(URL, open=False, **SIZE)
taken = asyncio.Event()


@contextlib.asynccontextmanager
async def open_pools() -> AsyncIterator[None]:
    with pool:
        async with async_pool:
            yield


async def keeps() -> str:
    """Keeps the only connection of the sync pool over its awaits, until somebody waits for it."""
    with pool.connection() as connection:
        taken.set()
        while pool.get_stats()["requests_waiting"] < 3:
            await asyncio.sleep(0.01)
        async with async_pool.connection() as other:
            row = await (await other.execute("SELECT 'kept'")).fetchone()
        connection.execute("UPDATE numbers SET number = 1")
    return str(row and row[0])


async def takes() -> str:
    """Blocks until it has it."""
    await taken.wait()
    with pool.connection() as connection:
        row = connection.execute("UPDATE numbers SET number = number + 1 RETURNING number").fetchone()
    return str(row and row[0])


app = application(keeps, takes, lifespan=open_pools)
