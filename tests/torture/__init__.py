"""Torture: hundreds of tasks do everything a task may do, in random mixes, and look whether the contract holds.

Run one random seed after the other for two minutes, each in a process of its own, until one fails::

    python -m tests.torture --seconds 120

A seed decides how the loops are configured and what each task does (``tasks.py``); the scheduling is left to
the machine, so a seed that has failed may have to be run some more times::

    python -m tests.torture --seed 123 --seconds 60
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import hybridexec

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
        [sys.executable, "-m", "tests.torture.run", str(seed), str(tasks), str(limit)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=limit + 30,
    )
    return done.returncode, done.stdout
