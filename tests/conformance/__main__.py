"""``python -m tests.conformance``: CPython's own tests of asyncio on HybridLoop, held against the tables of what fails.

    python -m tests.conformance [--engine ENGINE] [--jobs N] [MODULE ...]
    python -m tests.conformance --write          # make the tables in docs/conformance.md anew

What fails although no table has it is run once more on asyncio's own loop: if it fails there too, it is the machine's
or CPython's affair, and only told of.  With ``--engine uvloop`` it is run on plain uvloop instead.  The exit status is
1 for any other failure, for a hang (unless that one hangs, too), and for an entry of a table that is out of date.
"""

from __future__ import annotations

import argparse
import collections
import fnmatch
import os
import sys
import time

from . import PACKAGE, expected, running
from .expected import Kind
from .outcome import Outcome
from .running import Test
from .swap import PLAIN_UVLOOP

BAD = (Outcome.FAILED, Outcome.HUNG)
UVLOOP = "uvloop"
FEW = 10
"""So many tests are told by name."""


def main() -> int:
    """Run, compare, tell."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance")
    parser.add_argument("--engine", choices=expected.ENGINES, default="native", help="which loop")
    parser.add_argument("--jobs", type=int, default=2 * (os.cpu_count() or 1), help="processes at a time; most wait")
    parser.add_argument("--write", action="store_true", help="make the tables in docs/conformance.md anew")
    parser.add_argument("modules", nargs="*", help="only these: test_events")
    arguments = parser.parse_args()
    if arguments.write:
        expected.PAGE.write_text(expected.page())
        return 0
    modules = running.modules()
    if not modules:
        print(f"{sys.executable} comes without {PACKAGE}: install its tests")
        return 2
    unknown = set(arguments.modules) - set(modules)
    if unknown:
        parser.error(f"MODULE has to be one of {', '.join(modules)}, not {', '.join(sorted(unknown))}")
    chosen = arguments.modules or modules
    began = time.monotonic()
    wrong = _compared(arguments.engine, chosen, arguments.jobs)
    print(f"{time.monotonic() - began:.0f} s")
    if expected.page() != expected.PAGE.read_text():
        wrong.append("docs/conformance.md is out of date: python -m tests.conformance --write")
    print("\n".join(wrong))
    return int(bool(wrong))


def _compared(engine: str, modules: list[str], workers: int) -> list[str]:
    """Run an engine's tests; what is wrong with their outcome."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    entries = [entry for entry in expected.entries(engine) if entry.module in modules and entry.is_of(python)]
    hanging = [name for entry in entries if entry.kind is Kind.HANGS for name in entry.names]
    made = running.run([(engine, module) for module in modules], workers, brief=hanging)
    outcomes = {test.name: test for tests in made.values() for test in tests}
    wrong = []
    listed = set()
    for entry in entries:
        for pattern in entry.names:
            names = set(fnmatch.filter(outcomes, pattern))
            listed |= names
            if not names:
                wrong.append(f"{engine}.toml: there is no {pattern} on {python}")
            passed = sorted(name for name in names if outcomes[name].outcome is Outcome.PASSED)
            if entry.kind not in expected.MAY_PASS:
                wrong += [f"{engine}.toml: {name} passes on {python}" for name in passed]
    bad = [test for test in outcomes.values() if test.outcome in BAD and test.name not in listed]
    base = PLAIN_UVLOOP if engine == UVLOOP else "asyncio"
    there = _outcomes_on(base, bad, workers)
    shared = []
    for test in bad:
        if test.name in modules and not _fails_again(engine, test.name):
            print(f"{engine}: {test.name} did not come to its end, and did so the second time:\n{test.why}\n")
        elif there.get(test.name) is Outcome.HUNG or there.get(test.name) is test.outcome:
            shared.append(test.name)
        else:
            print(f"{engine}: {test.name}: {test.outcome.value}\n{test.why}\n")
            wrong.append(f"{engine}: {test.name}: {test.outcome.value}")
    if shared:
        modules_of = collections.Counter(name.split(".")[0] for name in shared)
        named = shared if len(shared) <= FEW else [f"{count} of {module}" for module, count in modules_of.items()]
        print(f"{engine}: {len(shared)} fail on {base}'s own loop, too: {', '.join(named)}")
        hang = [name for name in shared if outcomes[name].outcome is Outcome.HUNG]
        print("".join(f"{engine}: {name} hangs there, too\n" for name in hang), end="")
    counts = collections.Counter(test.outcome for test in outcomes.values())
    told = ", ".join(f"{counts[outcome]} {outcome.value}" for outcome in Outcome)
    print(f"{engine}, {python}: {told}; {len(listed)} of them listed")
    return wrong


def _fails_again(engine: str, module: str) -> bool:
    """Whether a module's process, whose tests are over, ends badly a second time."""
    return any(test.name == module for test in running.run([(engine, module)], 1)[engine, module])


def _outcomes_on(base: str, tests: list[Test], workers: int) -> dict[str, Outcome]:
    """What becomes of these tests on the loop that an engine is held against."""
    names = [test.name for test in tests]
    modules = sorted({name.split(".")[0] for name in names})
    made = running.run([(base, module) for module in modules], workers, names) if names else {}
    return {test.name: test.outcome for tests in made.values() for test in tests}


if __name__ == "__main__":
    sys.exit(main())
