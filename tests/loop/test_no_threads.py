"""A system that has no thread to give: programs run as on asyncio, and the log says why the loop does not move."""

from __future__ import annotations

import os
import sys

import pytest
from helpers import AUTO, start

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0, reason="takes another user's identity, whose threads are limited"
)

BEGINNING = """
import asyncio, importlib, logging, os, resource, sys, threading, time
import hybridexec

logging.basicConfig(stream=sys.stdout, format="LOG %(message)s")
logging.captureWarnings(True)
engine, soft = sys.argv[1], int(sys.argv[2])
importlib.import_module("hybridexec.engines." + {"uvloop": "uv"}.get(engine, engine))  # while it can be read
os.setgid(65534)
os.setuid(50000 + os.getpid() % 10000)  # nobody else's, or its threads would count
resource.setrlimit(resource.RLIMIT_NPROC, (soft, 100))
"""

BLOCKS = """
async def one(n):
    time.sleep(0.01)
    await asyncio.sleep(0)
    with hybridexec.blocking():
        time.sleep(0.01)
    return n


async def main():
    return await asyncio.gather(*map(one, range(6)))


for _ in range(2):
    print(hybridexec.run(main(), engine=engine))
print("threads", threading.active_count())
"""

RAISED = """
sys.modules["hybridexec.detector.sampler"].RETRY = 0.0
order = []


async def blocks(lock, name):
    lock.acquire()
    order.append(name)


async def main():
    lock = threading.Lock()
    lock.acquire()
    loop = asyncio.get_running_loop()
    assert loop.stats().lwps_alive == 1
    resource.setrlimit(resource.RLIMIT_NPROC, (100, 100))
    loop.call_soon(lock.release)  # if nobody moves, nobody gets here
    await blocks(lock, "moved")


hybridexec.run(main(), engine=engine)
print(order, "threads", threading.active_count())
"""

ENGINES = pytest.mark.parametrize("engine", [AUTO, "uvloop"])


def play(program: str, engine: str, soft: int) -> list[str]:
    """Run a program whose user may have so many threads; the lines that it prints."""
    with start(BEGINNING + program, engine, str(soft)) as process:
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    return output.splitlines()


@ENGINES
def test_without_a_thread_for_the_sampler_all_is_done_as_on_asyncio(engine: str) -> None:
    said, *rest = play(BLOCKS, engine, 1)
    assert rest == ["[0, 1, 2, 3, 4, 5]"] * 2 + ["threads 1"], rest
    assert said.startswith("LOG loops cannot move")
    assert "likely cause is RLIMIT_NPROC (RLIMIT_NPROC: 1 of 1" in said
    assert "ulimit -u" in said


@ENGINES
@pytest.mark.parametrize("soft", [2, 3, 5])
def test_without_enough_threads_all_is_done(engine: str, soft: int) -> None:
    """What the log says of each that is refused is another matter."""
    lines = [line for line in play(BLOCKS, engine, soft) if not line.startswith("LOG")]
    assert lines == ["[0, 1, 2, 3, 4, 5]"] * 2 + ["threads 1"]


@ENGINES
def test_a_loop_moves_as_soon_as_the_system_has_threads_again(engine: str) -> None:
    lines = play(RAISED, engine, 1)
    assert lines[0].startswith("LOG loops cannot move")
    assert lines[1:] == [
        "LOG the system has a thread for the sampler now: loops move",
        "['moved'] threads 1",
    ]
