"""asyncpg beside handlers that block: in its transactions, and until one of its own handlers does something."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import asyncpg
import psycopg2
from routes import application

URL = os.environ["DATABASE"]
holds = asyncio.Event()
pool: asyncpg.Pool


@contextlib.asynccontextmanager
async def open_pool() -> AsyncIterator[None]:
    global pool
    async with asyncpg.create_pool(URL, min_size=1, max_size=2, server_settings={"application_name": "pooled"}) as pool:
        yield


async def locks() -> str:
    """A transaction that holds a row until four wait for it: three in the sync driver, one in asyncpg."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("UPDATE numbers SET number = 10")
        holds.set()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while await connection.fetchval(waiting) < 4:
            await asyncio.sleep(0.01)
    return "unlocked"


async def waits() -> str:
    await holds.wait()
    async with pool.acquire() as connection:
        return str(await connection.fetchval("UPDATE numbers SET number = number + 1 RETURNING number"))


async def blocks() -> str:
    await holds.wait()
    connection = psycopg2.connect(URL)
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE numbers SET number = number + 1 RETURNING number")
        (number,) = cursor.fetchone()
    connection.close()
    return str(number)


async def copies() -> str:
    """A prepared statement, a cursor and a blocking call between its rows."""
    total = 0
    async with pool.acquire() as connection, connection.transaction():
        async for row in connection.cursor("SELECT n FROM generate_series(1, 200) AS n", prefetch=50):
            if row["n"] % 50 == 0:
                other = psycopg2.connect(URL)
                with other, other.cursor() as cursor:
                    cursor.execute("SELECT pg_sleep(0.01)")
                other.close()
            total += row["n"]
    return str(total)


async def listens() -> str:
    """Hears of what the test tells it."""
    heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def hear(connection: object, pid: int, channel: str, payload: str) -> None:
        heard.set_result(payload)

    async with pool.acquire() as connection:
        await connection.add_listener("news", hear)
        other = psycopg2.connect(URL)
        with other, other.cursor() as cursor:
            cursor.execute("NOTIFY news, 'it snows'")
        other.close()
        said = await heard
        await connection.remove_listener("news", hear)
    return said


app = application(locks, waits, blocks, copies, listens, lifespan=open_pool)
