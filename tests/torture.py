"""Torture: hundreds of tasks do everything a task may do, in random mixes, and look whether the contract holds.

Run one random seed after the other for two minutes, each in a process of its own, until one fails::

    python -m tests.torture --seconds 120

A seed decides how the loops are configured and what each task does (``torture_tasks.py``); the scheduling is left to
the machine, so a seed that has failed may have to be run some more times::

    python -m tests.torture --seed 123 --seconds 60
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
from pathlib import Path
from time import monotonic

import hybridexec

HERE = Path(__file__).resolve().parent
LIMIT = 60.0
"""Seconds after which a run counts as hung."""


def torture(seed: int, tasks: int, limit: float = LIMIT) -> tuple[int, str]:
    """Run one seed in a process of its own.

    Args:
        seed: decides what is done.
        tasks: how many tasks there are, not counting those that they start.
        limit: seconds after which the run counts as hung.

    Returns:
        The exit status, 0 if all was well, and what was printed.
    """
    path = os.pathsep.join(filter(None, (str(Path(hybridexec.__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, str(HERE / "torture_run.py"), str(seed), str(tasks), str(limit)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=limit + 30,
    )
    return done.returncode, done.stdout


def main() -> int:
    """The command line.  Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description="Run seeds until one fails.")
    parser.add_argument("--seconds", type=float, default=120, help="for how long (120)")
    parser.add_argument("--seed", type=int, help="this seed, again and again, instead of random ones")
    parser.add_argument("--tasks", type=int, default=200, help="how many tasks a loop has at first (200)")
    parser.add_argument("--limit", type=float, default=LIMIT, help=f"seconds after which a run is hung ({LIMIT:.0f})")
    arguments = parser.parse_args()
    end = monotonic() + arguments.seconds
    runs = 0
    while runs == 0 or monotonic() < end:
        seed = random.randrange(2**32) if arguments.seed is None else arguments.seed
        began = monotonic()
        status, output = torture(seed, arguments.tasks, arguments.limit)
        runs += 1
        alarms = "".join(f", {line}" for line in output.splitlines() if line.endswith(" false alarms"))
        print(f"seed={seed}: {'failed' if status else 'passed'} after {monotonic() - began:.1f} s{alarms}", flush=True)
        if status:
            print(output)
            return 1
    print(f"{runs} runs passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
