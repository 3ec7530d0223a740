"""``python -m tests.conformance``: CPython's own tests of asyncio on HybridLoop, held against the tables of what fails.

    python -m tests.conformance [--engine ENGINE] [--jobs N] [MODULE ...]
    python -m tests.conformance --write          # make the tables in docs/conformance.md anew

What fails although no table has it is run once more on asyncio's own loop: if it fails there too, it is the machine's
or CPython's affair, and only told of.  With ``--engine uvloop`` it is run on plain uvloop instead.  The exit status is
1 for any other failure, for a hang, and for an entry of a table that is out of date.
"""

from __future__ import annotations

import argparse
import collections
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


def main() -> int:
    """Run, compare, tell."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance")
    parser.add_argument("--engine", choices=[*expected.ENGINES, UVLOOP], help="only this one")
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
    engines = [arguments.engine] if arguments.engine else list(expected.ENGINES)
    chosen = arguments.modules or modules
    began = time.monotonic()
    made = running.run([(engine, module) for module in chosen for engine in engines], arguments.jobs)
    wrong = [line for engine in engines for line in _compared(engine, {m: made[engine, m] for m in chosen})]
    print(f"{time.monotonic() - began:.0f} s")
    if expected.page() != expected.PAGE.read_text():
        wrong.append("docs/conformance.md is out of date: python -m tests.conformance --write")
    print("\n".join(wrong))
    return int(bool(wrong))


def _compared(engine: str, made: dict[str, list[Test]]) -> list[str]:
    """What is wrong with the outcome of an engine's tests."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    wrong = []
    listed = set()
    outcomes = {test.name: test for tests in made.values() for test in tests}
    for entry in expected.entries(engine):
        if entry.module not in made:
            continue
        for pattern, names in entry.matching(set(outcomes), python).items():
            listed |= names
            if not names:
                wrong.append(f"{engine}.toml: there is no {entry.module}.{pattern} on {python}")
            may_pass = entry.kind is Kind.SWITCH
            passed = sorted(name for name in names if outcomes[name].outcome is Outcome.PASSED and not may_pass)
            wrong += [f"{engine}.toml: {name} passes on {python}" for name in passed]
    for module, tests in made.items():
        bad = [test for test in tests if test.outcome in BAD and test.name not in listed]
        base = PLAIN_UVLOOP if engine == UVLOOP else "asyncio"
        known = _known_to(base, module, [test.name for test in bad])
        for test in bad:
            if test.name == module and not _fails_again(engine, module):
                print(f"{engine}: {module} did not come to its end, and did so the second time:\n{test.why}\n")
                continue
            if test.name in known:
                print(f"{engine}: {test.name} fails on {base}'s own loop, too")
                continue
            print(f"{engine}: {test.name}: {test.outcome.value}\n{test.why}\n")
            wrong.append(f"{engine}: {test.name}: {test.outcome.value}")
    counts = collections.Counter(test.outcome for test in outcomes.values())
    told = ", ".join(f"{counts[outcome]} {outcome.value}" for outcome in Outcome)
    print(f"{engine}, {python}: {told}; {len(listed)} of them listed")
    return wrong


def _fails_again(engine: str, module: str) -> bool:
    """Whether a module's process, whose tests are over, ends badly a second time."""
    return any(test.name == module for test in running.run([(engine, module)], 1)[engine, module])


def _known_to(base: str, module: str, names: list[str]) -> set[str]:
    """Which of these tests fail on the loop that an engine is held against, too."""
    if not names:
        return set()
    tests = running.run([(base, module)], 1, names)[base, module]
    return {test.name for test in tests if test.outcome in BAD}


if __name__ == "__main__":
    sys.exit(main())
