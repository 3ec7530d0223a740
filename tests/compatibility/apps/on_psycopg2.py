"""psycopg2: adapters, type casters and a connection that handlers share, while each of them blocks."""

from __future__ import annotations

import asyncio
import os

import psycopg2
import psycopg2.extensions
from routes import application

URL = os.environ["DATABASE"]
holds = asyncio.Event()


class Temperature:
    def __init__(self, degrees: int) -> None:
        self.degrees = degrees


def adapt(value: Temperature) -> psycopg2.extensions.AsIs:
    """psycopg2 calls it in the middle of a query."""
    return psycopg2.extensions.AsIs(f"'{value.degrees} degrees'")


def cast(text: str | None, cursor: object) -> str:
    """And this one in the middle of a fetch."""
    return f"{text}!"


psycopg2.extensions.register_adapter(Temperature, adapt)


async def locks() -> str:
    """Holds a row until three wait for it in the database."""
    connection = psycopg2.connect(URL, application_name="locks")
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE numbers SET number = 10")
        holds.set()
        waiting = 0
        while waiting < 3:
            await asyncio.sleep(0.01)
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            (waiting,) = cursor.fetchone()
    connection.close()
    return "unlocked"


async def waits() -> str:
    """Blocks until it has the row."""
    await holds.wait()
    connection = psycopg2.connect(URL, application_name="waits")
    with connection, connection.cursor() as cursor:
        psycopg2.extensions.register_type(psycopg2.extensions.new_type((25,), "SAID", cast), cursor)
        cursor.execute("UPDATE numbers SET number = number + 1 RETURNING number, %s::text", (Temperature(20),))
        number, said = cursor.fetchone()
    connection.close()
    return f"{number} {said}"


shared = psycopg2.connect(URL, application_name="shared")
shared.autocommit = True


async def shares(number: str) -> str:
    """Many at once, by one connection: which has a lock of its own in C."""
    with shared.cursor() as cursor:
        cursor.execute("SELECT %s::text FROM pg_sleep(0.01)", (Temperature(int(number)),))
        return str(cursor.fetchone()[0])


async def closes() -> str:
    shared.close()
    return "closed"


app = application(locks, waits, shares, closes)
