"""taskiq: a worker's task blocks until another task of the same process has run."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys

import pytest
from compatibility.service import LIMIT, Backend, begin

from applications.running import APPS, VARIABLES, application, script


def client(redis: str, what: str = "") -> str:
    """What a client in a process of its own says."""
    done = subprocess.run(
        [sys.executable, "taskiq_client.py", what],
        cwd=APPS, env={**os.environ, **VARIABLES, "REDIS": redis}, capture_output=True, text=True, timeout=2 * LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_tasks_wait_for_each_other(engine: str, backend: Backend, redis_server: str, number: signal.Signals) -> None:
    command = [script("taskiq"), "worker", "--workers", "1", "with_taskiq:broker"]
    with application(*command, engine=engine, backend=backend, listens=False, REDIS=redis_server) as worker:
        assert client(redis_server) == "all tasks have run"
        asking = begin(functools.partial(client, redis_server, "ask"))
        backend.wait_for(1)
        assert client(redis_server) == "all tasks have run"
        backend.answer("at last")
        assert asking() == ["at last"]
        worker.stop_well(number, but=["INFO", r"\[WARNING\].*(signal|[Ss]hut|[Kk]ill)"])
