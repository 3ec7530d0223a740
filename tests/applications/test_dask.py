"""dask's scheduler and a worker: jobs on the worker's loop block until others have run there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from compatibility.service import LIMIT, free_port

from applications.running import APPS, VARIABLES, application

SCHEDULER = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "{port}", "--no-dashboard"]
WORKER = ["-m", "distributed.cli.dask_worker", "--no-nanny", "--no-dashboard", "--nthreads", "4", "--host", "127.0.0.1"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_jobs_wait_for_each_other(engine: str, number: signal.Signals) -> None:
    with application(*SCHEDULER, engine=engine) as scheduler:
        address = f"tcp://127.0.0.1:{scheduler.port}"
        port = free_port()
        with application(*WORKER, "--worker-port", str(port), address, engine=engine, listens=False) as worker:
            worker.wait_until_it_says("Registered to:")
            done = subprocess.run(
                [sys.executable, "dask_client.py", address],
                cwd=APPS, env={**os.environ, **VARIABLES}, capture_output=True, text=True, timeout=LIMIT,
            )  # fmt: skip
            assert "all jobs have run" in done.stdout, done.stderr
            worker.stop_well(number)
        scheduler.stop_well(number)
