"""arq: a worker's job blocks until another job of the same worker has run."""

from __future__ import annotations

import asyncio
import signal

import pytest
from arq import create_pool
from arq.connections import RedisSettings
from compatibility.service import LIMIT, Backend

from applications.running import application, script


async def jobs_wait_for_each_other(redis: str) -> None:
    """Four jobs that block, then the four that let them go."""
    pool = await create_pool(RedisSettings.from_dsn(redis))
    jobs = [await pool.enqueue_job("takes") for _ in range(4)] + [await pool.enqueue_job("puts", w) for w in "abcd"]
    results = [await job.result(timeout=LIMIT, poll_delay=0.05) for job in jobs if job]
    assert sorted(results[:4]) == list("abcd")
    assert results[4:] == ["put a", "put b", "put c", "put d"]
    await pool.aclose()


async def other_jobs_run_meanwhile(redis: str, backend: Backend) -> None:
    """A job is answered only when others have run."""
    pool = await create_pool(RedisSettings.from_dsn(redis))
    asking = await pool.enqueue_job("asks")
    await asyncio.to_thread(backend.wait_for, 1)
    other = await pool.enqueue_job("puts", "word")
    assert asking
    assert other
    assert await other.result(timeout=LIMIT, poll_delay=0.05) == "put word"
    backend.answer("at last")
    assert await asking.result(timeout=LIMIT, poll_delay=0.05) == "at last"
    await pool.aclose()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_jobs_wait_for_each_other(engine: str, backend: Backend, redis_server: str, number: signal.Signals) -> None:
    command = [script("arq"), "with_arq.WorkerSettings"]
    with application(*command, engine=engine, backend=backend, listens=False, REDIS=redis_server) as worker:
        asyncio.run(jobs_wait_for_each_other(redis_server))
        asyncio.run(other_jobs_run_meanwhile(redis_server, backend))
        worker.stop_well(number, status=[0, 1])
        assert "shutdown on SIG" in worker.said()
