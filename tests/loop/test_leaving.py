"""A deadlock and Ctrl-C: the first one says what is waited for, the second one ends the program."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest
from helpers import AUTO, environment

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="one process sends Ctrl-C to another")

BEGINNING = """
import asyncio, logging, sys, threading
import hybridexec

logging.basicConfig(format="LOG %(message)s")
lock = threading.Lock()


async def wants():
    lock.acquire()
    print("WENT ON")
"""

TASKS = """
async def main():
    lock.acquire()
    tasks = [asyncio.create_task(wants(), name=f"want-{n}") for n in range(5)]
    for _ in range(3):
        await asyncio.sleep(0)
    while asyncio.get_running_loop().stats().lwps_blocked < 5:
        await asyncio.sleep(0.01)
"""

READY = """
    print("ready", flush=True)
"""

GATHERS = TASKS + READY + "    await asyncio.gather(*tasks)\n"
"""The main task waits for those that are blocked, and so does the first Ctrl-C."""

WAITS = TASKS + READY + "    await asyncio.Event().wait()\n"
"""The main task ends by the first Ctrl-C, and the end of the run waits."""

CLEANS_UP = (
    """
async def cleans_up():
    try:
        await asyncio.Event().wait()
    finally:
        for _ in range(5):
            await asyncio.create_task(asyncio.sleep(0.3))
        print("cleaned up", flush=True)
"""
    + TASKS
    + """
    cleaning = asyncio.create_task(cleans_up())
    await asyncio.sleep(0)
    print("ready", flush=True)
    await asyncio.gather(*tasks, return_exceptions=True)
"""
)

RUN = "hybridexec.run(main(), engine=sys.argv[1])\n"


def interrupt(command: list[str]) -> tuple[str, str, int]:
    """Send Ctrl-C when the program says that it is ready, and once more when the log says what is waited for.

    Returns:
        What it has printed, what it has logged, and its exit status.
    """
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        killer = threading.Timer(30, process.kill)  # more than two are not sent
        killer.start()
        try:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
            process.send_signal(signal.SIGINT)
            first = process.stderr.readline()
            assert "Ctrl-C: waiting for 5 blocked steps; Ctrl-C again ends the program without them" in first
            process.send_signal(signal.SIGINT)
            out, err = process.stdout.read(), process.stderr.read()
        finally:
            killer.cancel()
    return out, first + err, process.returncode


@pytest.mark.parametrize("engine", [AUTO, "uvloop"])
@pytest.mark.parametrize("scene", [GATHERS, WAITS], ids=["the main task waits", "the end of the run waits"])
def test_the_second_one_ends_the_program(scene: str, engine: str) -> None:
    out, err, status = interrupt([sys.executable, "-c", BEGINNING + scene + RUN, engine])
    assert status == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert not out
    listed = err[: err.index("Ctrl-C: the loop is closed without")]
    assert all(f"task 'want-{n}' in _thread.lock.acquire at <string>:" in listed for n in range(5))
    assert err.count("Ctrl-C: waiting for") == 1


def test_under_hybridexec_run(tmp_path: object) -> None:
    script = f"{tmp_path}/script.py"
    with open(script, "w") as file:
        file.write(BEGINNING + GATHERS + "asyncio.run(main())\n")
    out, err, status = interrupt([sys.executable, "-m", "hybridexec", "run", script])
    assert status == -signal.SIGINT
    assert "the loop is closed without 4 blocked steps" in err
    assert not out


@pytest.mark.parametrize("engine", [AUTO, "uvloop"])
def test_what_is_not_blocked_has_the_time_to_end(engine: str) -> None:
    """The end of a task counts: only when nothing has moved for a while blocked steps are not waited for."""
    out, err, status = interrupt([sys.executable, "-c", BEGINNING + CLEANS_UP + RUN, engine])
    assert status == -signal.SIGINT
    assert out == "cleaned up\n", err


def test_a_step_that_was_left_behind_does_not_go_on() -> None:
    """The program handles KeyboardInterrupt, and releases the lock: the steps have no loop to go on in."""
    handles = """
try:
    hybridexec.run(main())
except KeyboardInterrupt:
    lock.release()
    left = [thread for thread in threading.enumerate() if thread.name.startswith("hybridexec-lwp")]
    while not lock.locked():  # one of them has got it
        pass
    async def again():
        return await asyncio.gather(asyncio.to_thread(sum, [1, 2]), asyncio.sleep(0.05, "fine"))
    print(len(left), hybridexec.run(again()), flush=True)
"""
    out, err, status = interrupt([sys.executable, "-c", BEGINNING + GATHERS + handles])
    assert status == 0, err
    assert out == "4 [3, 'fine']\n"
