"""The command line: ``python -m tests.torture``."""

from __future__ import annotations

import argparse
import random
import sys
from time import monotonic

from . import LIMIT, torture


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
