"""Django's async views under uvicorn, and its synchronous ORM in them."""

from __future__ import annotations

import contextlib
import functools
import signal
import sqlite3
import urllib.request
from pathlib import Path

import pytest

from compatibility.drivers import ENDED, UVICORN, ask
from compatibility.service import LIMIT, Backend, begin, blocks_and_streams, get, serving, together

APP = [*UVICORN, "with_django:app"]


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """A file with a table that a migration could have made, and one row in it."""
    file = tmp_path / "numbers"
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE numbers (id integer PRIMARY KEY AUTOINCREMENT, value integer NOT NULL)")
        connection.execute("INSERT INTO numbers (value) VALUES (0)")
    return file


@pytest.mark.compatibility(
    "django", "async views, middleware and `StreamingHttpResponse` that block; SIGTERM and Ctrl-C meanwhile"
)
@pytest.mark.parametrize("number", ENDED)
def test_views_block(engine: str, backend: Backend, number: signal.Signals) -> None:
    def outer() -> tuple[str, str]:
        with urllib.request.urlopen(f"{service.url}/outer", timeout=LIMIT) as response:
            return response.read().decode(), response.headers["said"]

    with serving(APP, engine=engine, backend=backend) as service:
        assert together(*[outer] * 4) == [("outer inner", "inner inner")] * 4
        blocks_and_streams(service)
        answers = begin(*[lambda: get(f"{service.url}/backend")] * 4)
        backend.wait_for(4)
        service.send(number)
        service.wait_until_it_says("Shutting down")
        backend.answer("at last")
        assert answers() == ["at last"] * 4
        service.stop_well(None, status=ENDED[number])


@pytest.mark.compatibility(
    "django", "`def` views and middleware, `sync_to_async`, the async ORM (`aget`): they stay in asgiref's threads"
)
def test_what_is_synchronous_stays_in_threads(engine: str, numbers: Path) -> None:
    middleware = "with_django.synchronous_middleware"
    with serving(APP, engine=engine, DATABASE=str(numbers), MIDDLEWARE=middleware) as service:
        blocks_and_streams(service)
        paths = ["synchronous", "in_a_thread"] * 2
        answers = begin(*[functools.partial(get, f"{service.url}/{path}") for path in paths])
        for _ in paths:
            get(f"{service.url}/put/word")
        assert answers() == ["ThreadPoolExecutor: word"] * 4
        assert ask(service, *["awaits"] * 4) == ["7"] * 4
        service.stop_well(status=ENDED[signal.SIGTERM])


@pytest.mark.compatibility(
    "django",
    "the synchronous ORM in async views, on sqlite: a locked file, and a transaction for each request",
    needs="`DJANGO_ALLOW_ASYNC_UNSAFE=1`; views [close](limits.md#things-that-belong-to-a-thread) their connection",
)
def test_the_orm(engine: str, numbers: Path) -> None:
    with serving(APP, engine=engine, DATABASE=str(numbers), DJANGO_ALLOW_ASYNC_UNSAFE="1") as service:
        assert sorted(ask(service, "locks", "waits", "waits", "waits")) == ["11", "12", "13", "unlocked"]
        assert ask(service, *["undoes"] * 4) == ["1 2 1"] * 4
        service.stop_well(status=ENDED[signal.SIGTERM])
