"""sqlite3's connections belong to the loop: a coroutine uses what another one has opened, on whichever thread.

Nothing here says ``check_same_thread=False``: what works on asyncio, where all is one thread, has to work unchanged.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import pipe
from steps import elsewhere

import hybridexec
from hybridexec.following import connections
from hybridexec.platform import memory

pytestmark = pytest.mark.differs_by_version


class Row(sqlite3.Row):
    """A row of a class of its own."""


class Connection(sqlite3.Connection):
    """A connection of a class of its own."""


class Initialized(sqlite3.Connection):
    """One whose initialization is Python code."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.made = True


OPENERS: dict[str, Callable[[Path], sqlite3.Connection]] = {
    "connect": sqlite3.connect,
    "explicit": lambda path: sqlite3.connect(path, check_same_thread=True),
    "factory": lambda path: sqlite3.connect(path, factory=Connection),
    "initialized": lambda path: sqlite3.connect(path, factory=Initialized),
    "class": Connection,
    "unseen": lambda path: next(map(sqlite3.connect, [path])),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a table."""
    path = tmp_path / "test.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB)")
        db.executemany("INSERT INTO t VALUES (?, zeroblob(4))", [(n,) for n in range(3)])
        db.commit()
    return path


def insert(db: sqlite3.Connection) -> None:
    """A transaction of its own."""
    with db:
        db.execute("INSERT INTO t (n) SELECT max(n) + 1 FROM t")


def query(db: sqlite3.Connection) -> None:
    """A cursor, and what can be asked of it."""
    with contextlib.closing(db.cursor()) as cursor:
        cursor.execute("SELECT n FROM t ORDER BY n")
        assert next(cursor) == (0,)
        assert cursor.fetchone() == (1,)
        assert [row[0] for row in cursor][:1] == [2]


def blob(db: sqlite3.Connection) -> None:
    """A blob, which no method is called of."""
    opened: Any
    with db.blobopen("t", "b", 1) as opened:
        opened[0] = 7
        assert opened[0:2] == b"\x07\0"


def copy(db: sqlite3.Connection) -> None:
    """A copy, in memory."""
    with contextlib.closing(sqlite3.connect(":memory:")) as other:
        db.backup(other)
        assert other.execute("SELECT count(*) FROM t").fetchone() >= (3,)


def dump(db: sqlite3.Connection) -> None:
    """A dump."""
    assert any("INSERT" in line for line in db.iterdump())


def functions(db: sqlite3.Connection) -> None:
    """What SQLite calls back."""
    db.create_function("twice", 1, lambda n: 2 * n)
    before, db.row_factory = db.row_factory, Row
    try:
        assert db.execute("SELECT twice(21) AS n").fetchone()["n"] == 42
    finally:
        db.row_factory = before


def state(db: sqlite3.Connection) -> None:
    """What no method is called for, once there was a call."""
    db.execute("SELECT 1")
    assert not db.in_transaction
    before, db.isolation_level = db.isolation_level, None
    db.isolation_level = before
    assert db.total_changes >= 0


USES = [insert, query, blob, copy, dump, functions, state]


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("place", ["home", "spare"])
def test_what_one_coroutine_has_opened_another_one_uses_on_another_thread(opener: str, place: str, path: Path) -> None:
    opened: list[sqlite3.Connection] = []
    threads: list[int] = []

    async def opens() -> None:
        threads.append(_thread.get_ident())
        opened.append(OPENERS[opener](path))

    async def uses() -> None:
        threads.append(_thread.get_ident())
        for use in USES:
            use(opened[0])

    async def main() -> None:
        if place == "home":
            await opens()
            await elsewhere(uses())
            await uses()
        else:
            await elsewhere(opens())
            await uses()
            await elsewhere(uses())
        opened[0].close()

    hybridexec.run(main())
    assert len(set(threads)) > 1


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
def test_a_use_is_the_first_that_another_thread_makes(use: Callable[[sqlite3.Connection], None], path: Path) -> None:
    async def uses(db: sqlite3.Connection) -> None:
        use(db)

    async def main() -> None:
        db = sqlite3.connect(path)
        await elsewhere(uses(db))
        db.close()

    hybridexec.run(main())


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
def test_a_connection_from_before_the_loop(use: Callable[[sqlite3.Connection], None], path: Path) -> None:
    async def uses() -> None:
        use(db)

    with contextlib.closing(sqlite3.connect(path)) as db:
        hybridexec.run(elsewhere(uses()))
        use(db)


@pytest.mark.parametrize("opener", OPENERS)
def test_a_connection_that_was_opened_on_a_spare_can_be_used_after_the_run(opener: str, path: Path) -> None:
    opened: list[sqlite3.Connection] = []

    async def opens() -> None:
        opened.append(OPENERS[opener](path))
        opened[0].execute("SELECT 1")  # from the first call in a step on it is the loop's

    loop = hybridexec.new_event_loop()
    try:
        loop.run_until_complete(elsewhere(opens()))
        for use in USES:
            use(opened[0])
    finally:
        loop.close()
    opened[0].close()


def test_a_transaction_begins_on_one_thread_and_ends_on_another(path: Path) -> None:
    threads: list[int] = []

    async def transaction(db: sqlite3.Connection, goes_on: asyncio.Event, writer: int) -> None:
        cursor = db.execute("SELECT n FROM t ORDER BY n")
        with db:
            threads.append(_thread.get_ident())
            db.execute("INSERT INTO t (n) VALUES (100)")
            await goes_on.wait()
            threads.append(_thread.get_ident())
        assert [n for (n,) in cursor] == [0, 1, 2, 100]  # no method is called here
        os.write(writer, b"x")

    async def main() -> None:
        goes_on = asyncio.Event()
        with pipe() as (reader, writer), contextlib.closing(sqlite3.connect(path)) as db:
            task = asyncio.create_task(transaction(db, goes_on, writer))
            await asyncio.sleep(0)
            goes_on.set()
            os.read(reader, 1)
            await task

    hybridexec.run(main())
    assert threads[0] != threads[1]


def test_rows_are_fetched_while_the_loop_is_elsewhere(path: Path) -> None:
    """A call that blocks in the middle of many rows goes on as what it was."""

    def wait(n: int) -> int:
        if n == 1:
            os.read(reader, 1)
        return n

    async def fetches(db: sqlite3.Connection) -> list[Any]:
        db.create_function("wait", 1, wait)
        return db.execute("SELECT wait(n) FROM t ORDER BY n").fetchall()

    async def writes() -> None:
        on_spare.append(_thread.get_ident() != threading.main_thread().ident)
        os.write(writer, b"x")

    async def main() -> None:
        with contextlib.closing(sqlite3.connect(path)) as db:
            assert (await asyncio.gather(fetches(db), writes()))[0] == [(0,), (1,), (2,)]

    on_spare: list[bool] = []
    with pipe() as (reader, writer):
        hybridexec.run(main())
    assert on_spare == [True]


def test_a_connection_in_the_middle_of_a_call_is_waited_for(path: Path) -> None:
    """A function is created with the GIL in hand, which the one that SQLite has called needs to end."""
    order: list[str] = []

    def wait(n: int) -> int:
        order.append("waits")
        os.read(reader, 1)
        order.append("goes on")
        return n

    async def calls(db: sqlite3.Connection) -> Any:
        return db.execute("SELECT wait(?)", (7,)).fetchone()

    async def calls_too(db: sqlite3.Connection) -> Any:
        db.create_function("other", 0, lambda: 8)
        order.append("calls too")
        return db.execute("SELECT other()").fetchone()

    async def releases() -> None:
        order.append("releases")
        os.write(writer, b"x")

    async def main() -> None:
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.create_function("wait", 1, wait)
            rows = await asyncio.gather(calls(db), calls_too(db), calls_too(db), releases())
            assert tuple(rows) == ((7,), (8,), (8,), None)

    with pipe() as (reader, writer):
        hybridexec.run(main())
    assert order == ["waits", "releases", "goes on", "calls too", "calls too"]


def refused(db: sqlite3.Connection) -> bool:
    """Whether the calling thread may not use a connection."""
    try:
        db.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return True
    return False


def test_what_another_thread_has_opened_stays_its_own(path: Path) -> None:
    opened: list[sqlite3.Connection] = []
    done = threading.Event()

    def opens() -> None:
        with contextlib.closing(sqlite3.connect(path)) as db:
            opened.append(db)
            ready.set()
            done.wait()

    async def asks() -> None:
        assert refused(opened[0])

    async def main() -> None:
        await asks()
        await elsewhere(asks())
        await asks()

    ready = threading.Event()
    thread = threading.Thread(target=opens)
    thread.start()
    ready.wait()
    try:
        hybridexec.run(main())
        assert refused(opened[0])
    finally:
        done.set()
        thread.join()


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An interpreter whose connections have another layout."""
    connections.fields.cache_clear()
    yield
    connections.fields.cache_clear()


def test_where_sqlite_does_not_serialize_nothing_is_done(
    path: Path, unknown: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "threadsafety", 1)
    db = sqlite3.connect(path)

    async def asks() -> None:
        assert refused(db)

    hybridexec.run(elsewhere(asks()))
    db.close()


def test_where_the_fields_are_not_found_nothing_is_done(
    path: Path, unknown: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "find", lambda *_: None)
    assert connections.fields() is None
    hybridexec.run(elsewhere(asyncio.sleep(0)))


def test_the_layout_is_known_here() -> None:
    assert connections.fields() is not None


def test_sqlalchemy_shares_a_connection_of_its_pool(path: Path) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = sqlalchemy.create_engine(f"sqlite:///{path}", poolclass=sqlalchemy.pool.StaticPool)

    async def counts() -> None:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("INSERT INTO t (n) SELECT max(n) + 1 FROM t"))
            connection.commit()

    async def main() -> None:
        await counts()
        await elsewhere(counts())
        await counts()

    hybridexec.run(main())
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT count(*) FROM t")).scalar() == 6
    engine.dispose()
