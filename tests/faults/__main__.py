"""Plays the table of faults, and tells how many programs came to their end with all right.

    python -m tests.faults [--engine E ...] [--times N] [--only TEXT] [--wide]

Exit status 1 if one has not.
"""

from __future__ import annotations

import argparse
import sys

from .table import FAULTS, play


def main() -> int:
    """Play, and tell."""
    parser = argparse.ArgumentParser(description="Play the table of faults.")
    parser.add_argument("--engine", action="append", choices=("native", "selector", "uvloop"))
    parser.add_argument("--times", type=int, default=1, help="so many times each")
    parser.add_argument("--only", default="", help="only what has this text in its name")
    parser.add_argument("--wide", action="store_true", help="with the arguments of the hunt")
    arguments = parser.parse_args()
    wrong = 0
    for fault in FAULTS:
        if arguments.only not in str(fault):
            continue
        wide = arguments.wide or fault.gate is None
        given = fault.hunt if wide else fault.gate or ()
        for engine in arguments.engine or ["native", "uvloop"]:
            outcomes = [play(fault, given, engine, fault.limit) for _ in range(arguments.times)]
            survived = sum(outcome.survived for outcome in outcomes)
            note = next(filter(None, (outcome.skipped for outcome in outcomes)), "")
            seconds = max(outcome.seconds for outcome in outcomes)
            print(f"{fault!s:32} {engine:9} {survived:3} of {len(outcomes)} {seconds:6.1f} s  {note}", flush=True)
            for outcome in outcomes:
                if not outcome.survived:
                    wrong += 1
                    print(outcome.output)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
