"""PostgreSQL's drivers, sync and async side by side in one service, on a real PostgreSQL."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import psycopg
import pytest

from compatibility.drivers import ENDED, UVICORN, ask, get
from compatibility.service import serving


@pytest.fixture
def database(postgresql: str) -> Iterator[psycopg.Connection]:
    """A connection of the test's own, beside a table with a number in it."""
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute("CREATE TABLE numbers (number integer); INSERT INTO numbers VALUES (0)")
        yield connection
        connection.execute("DROP TABLE numbers")


def connections(database: psycopg.Connection, name: str) -> int:
    """How many of an application's name there are."""
    row = database.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", (name,)).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.compatibility(
    "psycopg", "sync and async connections: locks and notifications of each other; SIGTERM, Ctrl-C"
)
@pytest.mark.parametrize("number", ENDED)
def test_psycopg(engine: str, database: psycopg.Connection, postgresql: str, number: signal.Signals) -> None:
    with serving([*UVICORN, "on_psycopg:app"], engine=engine, DATABASE=postgresql) as service:
        answers = ask(service, "locks", *["waits"] * 4)
        assert answers[0] == "unlocked"
        assert sorted(map(str, answers[1:])) == ["0", "1", "2", "3"]
        assert ask(service, "listens", "tells") == ["it rains", "told"]
        service.stop_well(number, status=ENDED[number])


@pytest.mark.compatibility("psycopg-pool", "sync and async pools: a handler that blocks until another gives back")
def test_psycopg_pool(engine: str, database: psycopg.Connection, postgresql: str) -> None:
    with serving([*UVICORN, "on_psycopg_pool:app"], engine=engine, DATABASE=postgresql) as service:
        answers = ask(service, "keeps", *["takes"] * 3)
        assert sorted(map(str, answers)) == ["2", "3", "4", "kept"]
        assert connections(database, "pooled") == 2
        service.stop_well(status=ENDED[signal.SIGTERM])


@pytest.mark.compatibility("psycopg2-binary", "row locks, adapters and type casters, a connection shared by handlers")
def test_psycopg2(engine: str, database: psycopg.Connection, postgresql: str) -> None:
    with serving([*UVICORN, "on_psycopg2:app"], engine=engine, DATABASE=postgresql) as service:
        answers = ask(service, "locks", *["waits"] * 3)
        assert sorted(map(str, answers)) == [*(f"{n} 20 degrees!" for n in (11, 12, 13)), "unlocked"]
        assert ask(service, *[f"shares?number={n}" for n in range(20)]) == [f"{n} degrees" for n in range(20)]
        assert connections(database, "shared") == 1
        assert get(service, "closes") == "closed"
        service.stop_well(status=ENDED[signal.SIGTERM])


@pytest.mark.compatibility("asyncpg", "its pool, cursors and listeners beside a sync driver that blocks; Ctrl-C")
def test_asyncpg(engine: str, database: psycopg.Connection, postgresql: str) -> None:
    with serving([*UVICORN, "on_asyncpg:app"], engine=engine, DATABASE=postgresql) as service:
        answers = ask(service, "locks", "waits", *["blocks"] * 3)
        assert sorted(map(str, answers)) == ["11", "12", "13", "14", "unlocked"]
        assert ask(service, *["copies"] * 3, "listens") == ["20100"] * 3 + ["it snows"]
        assert connections(database, "pooled") == 2
        service.stop_well(signal.SIGINT, status=ENDED[signal.SIGINT])


@pytest.mark.compatibility(
    "SQLAlchemy",
    "sync sessions and a full pool in coroutines, beside the asyncio engine; scoped_session",
    needs="`scoped_session(..., scopefunc=asyncio.current_task)`; "
    "[a limit](limits.md#things-that-belong-to-a-thread) of the asyncio engine",
)
def test_sqlalchemy(engine: str, database: psycopg.Connection, postgresql: str) -> None:
    with serving([*UVICORN, "on_sqlalchemy:app"], engine=engine, DATABASE=postgresql) as service:
        answers = ask(service, "locks", *["waits"] * 5)
        assert sorted(map(str, answers)) == ["11", "12", "13", "14", "15", "unlocked"]
        assert ask(service, *[f"visits?who={n}" for n in range(10)]) == [f"{n} 1" for n in range(10)]
        assert connections(database, "pooled") <= 4
        service.stop_well(status=ENDED[signal.SIGTERM])
