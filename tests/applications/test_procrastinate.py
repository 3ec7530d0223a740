"""procrastinate: a worker's job blocks until another job of the same worker has run; a job in flight is finished."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from compatibility.service import LIMIT, Backend

from applications.running import APPS, VARIABLES, application, script

COMMAND = [script("procrastinate"), "--app", "with_procrastinate.app"]


def procrastinate(database: str, results: Path, *command: str) -> None:
    """One of its commands, in a process of its own."""
    variables = {**os.environ, **VARIABLES, "DATABASE": database, "RESULTS": os.fspath(results)}
    done = subprocess.run([*COMMAND, *command], cwd=APPS, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def database(postgresql: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with its tables."""
    procrastinate(postgresql, tmp_path_factory.mktemp("schema"), "schema", "--apply")
    return postgresql


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_jobs_wait_for_each_other(
    engine: str, backend: Backend, database: str, number: signal.Signals, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    results.touch()

    def defer(name: str, **arguments: str) -> None:
        procrastinate(database, results, "defer", f"with_procrastinate.{name}", json.dumps(arguments))

    def wait_for(*lines: str) -> None:
        until = time.monotonic() + LIMIT
        while sorted(results.read_text().splitlines()) != sorted(lines):
            assert time.monotonic() < until, results.read_text() + worker.said()
            time.sleep(0.05)

    command = [*COMMAND, "worker", "--concurrency", "4"]
    with application(
        *command, engine=engine, backend=backend, listens=False, DATABASE=database, RESULTS=os.fspath(results)
    ) as worker:
        defer("takes")
        defer("takes")
        defer("puts", word="a")
        defer("puts", word="b")
        said = ["took a", "took b", "put a", "put b"]
        wait_for(*said)
        defer("asks")
        backend.wait_for(1)
        defer("puts", word="c")
        wait_for(*said, "put c")
        worker.send(number)
        worker.wait_until_it_says("Stop requested")
        backend.answer("at last")
        worker.stop_well(None)
        assert results.read_text().splitlines()[-1] == "at last"
