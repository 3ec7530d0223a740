"""The table of faults: which programs bring them about, with which arguments in the gate and in the hunt."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Fault(NamedTuple):
    """A fault.

    Attributes:
        module: the module of the program.
        name: the program.
        gate: its arguments in the gate; None: left to the hunt.
        hunt: its arguments in the hunt.
        limit: seconds that the wide one may take.
    """

    module: str
    name: str
    gate: tuple[str, ...] | None
    hunt: tuple[str, ...]
    limit: float = 60

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


_SIZES = tuple(str(size) for size in range(8, 104, 4))

FAULTS = [
    Fault("refused", "threads", ("4",), ("12",), 120),
    Fault("refused", "processes", ("1", "3"), ("1", "2", "3", "4", "5", "8"), 120),
    Fault("refused", "memory", ("20", "60"), _SIZES, 300),
    Fault("refused", "locks", ("6",), ("40",), 120),
    Fault("refused", "descriptors_for_a_loop", ("0", "5"), ("0", "4", "5", "6", "7", "8")),
    Fault("refused", "descriptors_for_accept", (), ()),
    Fault("refused", "descriptors_in_a_step", (), ()),
    Fault("files", "proc_refused", (), ()),
    Fault("files", "proc_hidden", (), ()),
    Fault("files", "disk_full", (), ()),
    Fault("files", "no_file_may_grow", (), ()),
    Fault("files", "log_raises", (), ()),
    Fault("files", "stderr_closed", (), ()),
    Fault("files", "stderr_full", (), ()),
    Fault("times", "clock_set", ("14",), ("200",), 120),
    Fault("times", "suspended", ("1",), ("120",), 240),
    Fault("times", "gil_held", ("1.5",), ("30",), 120),
    Fault("processes", "forks", ("2",), ("50",), 240),
    Fault("processes", "execs", (), ()),
    Fault("processes", "exits_at_once", (), ()),
    Fault("processes", "exits_blocked", None, (), 120),
    Fault("processes", "signals", ("1",), ("30",), 120),
    Fault("processes", "shutdown", ("1",), ("10",), 240),
    Fault("detection", "sampler_dies", ("4",), ("90",), 120),
    Fault("detection", "monitoring_taken", ("1",), ("10",), 240),
    Fault("code", "recursion", ("8", "12"), ("1", "31"), 400),
    Fault("code", "instrument", (), ()),
    Fault("code", "finalizer", (), ()),
]


class Outcome(NamedTuple):
    """What became of a program.

    Attributes:
        survived: whether it came to its end, and all was right.
        skipped: why it has not tried anything; empty if it has.
        output: what it has printed.
        seconds: how long it took.
    """

    survived: bool
    skipped: str
    output: str
    seconds: float


def play(fault: Fault, arguments: tuple[str, ...], engine: str, limit: float) -> Outcome:
    """Run a program; it hangs if it takes longer than the limit."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-m", f"tests.faults.{fault.module}", fault.name, *arguments],
        cwd=ROOT,
        env={**os.environ, "HYBRIDEXEC_ENGINE": engine, "FAULTS_LIMIT": str(limit), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        output, _ = process.communicate(timeout=limit + 20)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        output += "\nkilled: it hangs"
    output += f"exit status {process.returncode}\n" if process.returncode else ""
    lines = output.splitlines()
    skipped = next((line for line in lines if line.startswith("skipped: ")), "")
    survived = process.returncode == 0 and bool(lines) and lines[-1] == "over"
    return Outcome(survived, skipped, output, time.monotonic() - began)
