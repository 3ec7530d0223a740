"""Libraries that keep something for "this thread" while a call lasts."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from pathlib import Path

import django
import pytest
from django.conf import settings
from loguru import logger

import hybridexec


def test_a_call_of_a_managers_proxy_has_its_connection_to_itself() -> None:
    """The connection is in a thread-local; a get would keep a put from being seen."""
    with multiprocessing.get_context("spawn").Manager() as manager:
        queue, numbers = manager.Queue(), manager.dict()
        got: list[object] = []

        async def gets() -> None:
            got.append(queue.get())

        async def puts() -> None:
            for number in range(3):
                numbers[number] = number * number
                queue.put(number)
                await asyncio.sleep(0)
                assert numbers[number] == number * number

        async def main() -> None:
            await asyncio.gather(gets(), gets(), gets(), puts())

        hybridexec.run(main())
        assert sorted(got) == [0, 1, 2]  # type: ignore[type-var]
        assert dict(numbers) == {0: 0, 1: 1, 2: 4}


def test_a_record_of_another_coroutine_is_no_reentry_into_a_handler_that_blocks() -> None:
    """loguru notes in a thread-local that a thread is inside of a handler."""
    gate = threading.Event()
    got: list[str] = []

    def sink(message: str) -> None:
        if not got:
            got.append("waits")
            gate.wait()
        got.append(message.strip())
        if message == "nested\n":
            logger.info("refused")

    async def logs(text: str) -> None:
        logger.info(text)

    async def opens() -> None:
        gate.set()

    async def main() -> None:
        await asyncio.gather(logs("first"), logs("second"), opens())
        with pytest.raises(RuntimeError, match="deadlock avoided"):
            await logs("nested")

    logger.remove()
    handler = logger.add(sink, format="{message}", catch=False)
    try:
        hybridexec.run(main())
    finally:
        logger.remove(handler)
    assert sorted(got[1:3]) == ["first", "second"]
    assert got[3:] == ["nested"]


def test_a_connection_of_djangos_belongs_to_the_loop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    reader, writer = os.pipe()
    rows: list[object] = []

    async def main() -> None:
        from django.db import connection

        def execute(sql: str) -> None:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                rows.extend(cursor.fetchall())

        async def blocks() -> None:
            os.read(reader, 1)
            execute("SELECT 2")

        async def releases() -> None:
            try:
                execute("SELECT 1")
            finally:
                os.write(writer, b"x")

        execute("SELECT 0")
        await asyncio.gather(blocks(), releases())
        connection.close()

    if not settings.configured:
        settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "db"}})
        django.setup()
    hybridexec.run(main())
    assert rows == [(0,), (1,), (2,)]
    os.close(reader)
    os.close(writer)
