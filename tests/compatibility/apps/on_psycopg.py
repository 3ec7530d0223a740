"""psycopg, sync and async side by side.  Each handler that blocks is let go by another one, through the other kind."""

from __future__ import annotations

import asyncio
import os

import psycopg
from routes import application

URL = os.environ["DATABASE"]
released = asyncio.Event()


async def locks() -> str:
    """Holds the lock on a key until so many wait for it in the database; through the async driver."""
    async with await psycopg.AsyncConnection.connect(URL, application_name="locks") as connection:
        await connection.execute("SELECT pg_advisory_lock(1)")
        await connection.commit()
        released.set()
        while True:
            waiting = await connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted AND objid = 1")
            if await waiting.fetchone() == (4,):
                break
            await asyncio.sleep(0.01)
        await connection.execute("SELECT pg_advisory_unlock(1)")
    return "unlocked"


async def waits() -> str:
    """Waits for the lock in the sync driver, and adds 1 to a number while it has it."""
    await released.wait()
    with psycopg.connect(URL, application_name="waits") as connection:
        connection.execute("SELECT pg_advisory_lock(1)")
        (number,) = connection.execute("SELECT number FROM numbers").fetchone() or (0,)
        connection.execute("UPDATE numbers SET number = %s", (number + 1,))
        connection.commit()
        connection.execute("SELECT pg_advisory_unlock(1)")
    return str(number)


async def listens() -> str:
    """Waits for a notification in the sync driver."""
    with psycopg.connect(URL, autocommit=True, application_name="listens") as connection:
        connection.execute("LISTEN news")
        return ",".join(notification.payload for notification in connection.notifies(stop_after=1))


async def tells() -> str:
    """Tells it, once somebody listens: through the async driver."""
    async with await psycopg.AsyncConnection.connect(URL, autocommit=True, application_name="tells") as connection:
        listening = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'listens' AND query LIKE 'LISTEN%'"
        while await (await connection.execute(listening)).fetchone() != (1,):
            await asyncio.sleep(0.01)
        await connection.execute("NOTIFY news, 'it rains'")
    return "told"


app = application(locks, waits, listens, tells)
