"""What goes wrong at each call is said a few times, and not at each call."""

from __future__ import annotations

import logging
import os
import sys
import threading

import pytest
from helpers import AUTO, start

from hybridexec import HybridExecutor


@pytest.mark.parametrize("level", [logging.DEBUG, logging.WARNING])
def test_an_executor_with_more_jobs_than_threads_writes_a_few_lines(
    level: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a thousand jobs wait for one event, which is set when the executor has no thread left."""
    caplog.set_level(level)
    full = threading.Event()
    go = threading.Event()
    blocked = threading.Semaphore(0)

    def job() -> None:
        blocked.release()
        if not full.is_set():
            go.wait()

    with HybridExecutor(max_lwps=64, threshold=60) as executor:  # no lock is taken for slow on a busy machine
        futures = [executor.submit(job) for _ in range(500)]
        for _ in range(64):
            blocked.acquire()
        full.set()
        go.set()
        for future in futures:
            future.result()
    lines = [line for text in caplog.messages for line in text.splitlines()]
    assert len(lines) <= 10, lines  # some jobs have returned by the time they are listed, and are elsewhere


def test_an_executor_whose_jobs_are_deadlocked_is_told_of_and_grouped(caplog: pytest.LogCaptureFixture) -> None:
    """There it is no ordinary crowd: every thread waits for a lock."""
    lock = threading.Lock()
    lock.acquire()
    seen = threading.Event()

    def job() -> None:
        lock.acquire()
        lock.release()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "waits for a lock" in record.getMessage():
                seen.set()

    handler = Handler()
    logging.getLogger("hybridexec").addHandler(handler)
    try:
        with HybridExecutor(max_lwps=32) as executor:
            futures = [executor.submit(job) for _ in range(50)]
            assert seen.wait(60)
            lock.release()
            for future in futures:
                future.result()
    finally:
        logging.getLogger("hybridexec").removeHandler(handler)
    (text,) = [text for text in caplog.messages if "waits for a lock" in text]
    head, line = text.splitlines()
    assert head.count("<lock>") == 1
    assert "(32 times)" in head
    assert line.startswith("  32 in _thread.lock.acquire at ")


LIMITED = """
import asyncio, importlib, logging, os, resource, sys, threading, time
import hybridexec

importlib.import_module("hybridexec.engines." + {"uvloop": "uv"}.get(sys.argv[1], sys.argv[1]))  # while it can be read
records = []
refused = threading.Event()


class Handler(logging.Handler):
    def emit(self, record):
        records.append(record.getMessage())
        if "no thread for another LWP" in records[-1]:
            refused.set()


logging.getLogger().addHandler(Handler())
os.setgid(65534)
os.setuid(50000 + os.getpid() % 10000)  # nobody else's, or its threads would count
resource.setrlimit(resource.RLIMIT_NPROC, (8, 8))


async def blocks():
    refused.wait()  # which only a refusal ends
    for _ in range(20):
        time.sleep(0.002)
        await asyncio.sleep(0)


async def main():
    await asyncio.gather(*(blocks() for _ in range(30)))


hybridexec.run(main(), engine=sys.argv[1])
print(*records, sep="\\n")
"""


@pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0, reason="takes another user's identity, whose threads are limited"
)
@pytest.mark.parametrize("engine", [AUTO, "uvloop"])
def test_a_process_at_its_limit_of_threads_writes_a_few_lines_with_the_cause(engine: str) -> None:
    with start(LIMITED, engine) as process:
        printed, _ = process.communicate(timeout=100)
    assert process.returncode == 0, printed
    lines = printed.splitlines()
    assert len(lines) <= 5, printed
    (refusal,) = [line for line in lines if "no thread for another LWP" in line]
    assert "beside 7: the likely cause is RLIMIT_NPROC (RLIMIT_NPROC: 8 of 8): raise it with `ulimit -u`" in refusal
