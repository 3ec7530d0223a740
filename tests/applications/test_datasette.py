"""datasette: a plugin's route blocks until another request comes; tables are served meanwhile."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
from pathlib import Path

import pytest
from compatibility.service import Backend, begin, get

from applications.running import application


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A file with a table of twenty rows."""
    path = tmp_path / "shop.db"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("create table goods (id integer primary key, name text)")
        connection.executemany("insert into goods (name) values (?)", [(f"good {n}",) for n in range(20)])
    return path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_routes_wait_for_each_other(engine: str, backend: Backend, database: Path, number: signal.Signals) -> None:
    command = ["-m", "datasette", "serve", str(database), "--port", "{port}", "--plugins-dir", "datasette_plugins"]
    with application(*command, engine=engine, backend=backend) as service:
        table = f"{service.url}/shop/goods.json?_shape=array"
        rows = [{"id": n + 1, "name": f"good {n}"} for n in range(20)]
        assert json.loads(get(table)) == rows
        taken = begin(*[lambda: get(f"{service.url}/-/take")] * 4)
        assert [get(f"{service.url}/-/put/{word}") for word in "abcd"] == ["put"] * 4
        assert sorted(taken()) == list("abcd")
        asked = begin(*[lambda: get(f"{service.url}/-/backend")] * 4)
        backend.wait_for(4)
        assert json.loads(get(table)) == rows
        assert "good 7" in get(f"{service.url}/shop/goods")
        assert len(get(f"{service.url}/shop/goods.csv?_stream=on").splitlines()) == 21
        service.send(number)
        service.wait_until_it_says("Shutting down")
        backend.answer("at last")
        assert asked() == ["at last"] * 4
        service.stop_well(None, status=[0, 130, -number])
