"""The runner of CPython's own tests (``tests/conformance``): nothing that it has started outlives it."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

RUNNER = """
import pathlib, sys
from tests.conformance.running import _process
_process(sys.argv[2:], sys.argv[1], pathlib.Path("/dev/null"))
"""

SPINS = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid()))\nwhile True: pass"
"""Says in a file who it is, and goes on for ever."""

LEAVES = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', *sys.argv[2:]]); open(sys.argv[1]).read()"
"""Starts another program, and waits for the end of a file."""


def run(folder: Path, program: str, *arguments: object) -> subprocess.Popen[bytes]:
    """A runner of a program."""
    command = [sys.executable, "-c", RUNNER, str(folder), sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT)


def made(fifo: Path) -> Path:
    """A file that whoever reads it waits for."""
    os.mkfifo(fifo)
    return fifo


def ends(process: int) -> None:
    """Wait for the end of a process; if it does not come, the test's time is up."""
    select.select([process], [], [])
    os.close(process)


def test_a_process_ends_with_its_runner_though_that_is_killed(tmp_path: Path) -> None:
    who = made(tmp_path / "who")
    with run(tmp_path, SPINS, who) as runner:
        spins = os.pidfd_open(int(who.read_text()))
        runner.kill()
    ends(spins)


def test_what_a_process_leaves_behind_ends_after_it(tmp_path: Path) -> None:
    """Nor is it waited for, though it has its parent's output."""
    who, go = made(tmp_path / "who"), made(tmp_path / "go")
    with run(tmp_path, LEAVES, go, SPINS, who) as runner:
        spins = os.pidfd_open(int(who.read_text()))
        go.write_text("")
        ends(spins)
        assert runner.wait() == 0
