"""Runs the tests and makes ``docs/compatibility.md`` of what they say."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from compatibility.conftest import ENGINES

# Most of the time they wait for processes.
SIDE_BY_SIDE = ["-n", "3", "--dist", "loadfile"]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
HEAD = """# Compatibility

Other people's servers, frameworks, clients and drivers on a HybridLoop, unchanged.  Each row is a test of
`tests/compatibility/`, in which a real service in a process of its own blocks on what only another request can bring;
it ends by a signal, says nothing that looks like a warning, and leaves no thread behind.  This page is written by
these tests:

```console
make compatibility
```

Whole applications are in [applications.md](applications.md), and other projects' own suites in [suites.md](suites.md).

"""


RUNTIMES = """
## Foreign runtimes

Other loops and schedulers in the same process, beside ours, over it, or in its place: what is right, and what is
refused in a sentence.  [The limits](limits.md) say more.

"""


class Results:
    """A plugin of pytest's that keeps what each row's tests came to."""

    def __init__(self) -> None:
        # the library and what it shows: what is needed, and by engine what came of it
        self.needs: dict[tuple[str, str], str] = {}
        self._place: dict[tuple[str, str], int] = {}
        self._runtimes: set[tuple[str, str]] = set()
        self.came_to: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        self.left_out: dict[tuple[str, str], str] = {}  # by row, why

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            said_of_it: dict[str, Any] = dict(report.user_properties)
            place, library, what, needs, runtime, engine = said_of_it["row"]
            row = library, what
            if runtime:
                self._runtimes.add(row)
            self.needs[row] = needs
            self._place[row] = min(place, self._place.get(row, place))
            said = "yes" if report.outcome == "passed" else "no" if report.outcome == "failed" else "-"
            if report.outcome == "skipped":
                self.left_out[row] = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
            for name in [engine] if engine else ENGINES:
                if self.came_to[row].get(name) != "no":
                    self.came_to[row][name] = said

    def tables(self) -> str:
        """The page's tables."""
        return self._table(self.came_to.keys() - self._runtimes) + RUNTIMES + self._table(self._runtimes)

    def _table(self, rows: Iterable[tuple[str, str]]) -> str:
        lines = [
            "| library | version | what works | selector | uvloop | what it needs |",
            "|---|---|---|---|---|---|",
        ]
        for library, what in sorted(rows, key=lambda row: (row[0].lower(), self._place[row])):
            engines = self.came_to[library, what]
            columns = [library, _version(library), what, *(engines.get(e, "-") for e in ENGINES)]
            needs = self.left_out.get((library, what)) or self.needs[library, what]
            lines.append(f"| {' | '.join(columns)} | {needs} |")
        return "\n".join(lines) + "\n"


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _rows(page: str) -> dict[tuple[str, str], tuple[str, str, str]]:
    """A page's rows without the versions, which are of the last time that it was written."""
    found = {}
    for line in page.splitlines():
        if line.startswith("| ") and not line.startswith("| library"):
            library, _, what, selector, uvloop, needs = (cell.strip() for cell in line.strip("|").split(" |"))
            found[library.strip(), what] = selector, uvloop, needs
    return found


def differences(fresh: str, page: str) -> list[str]:
    """Where a page is not what the tests say.  What could not be tried here (-) is believed."""
    new, old = _rows(fresh), _rows(page)
    said = [f"{'not' if row in new else 'no longer'} in the page: {' | '.join(row)}" for row in new.keys() ^ old.keys()]
    for row in new.keys() & old.keys():
        if new[row][:2] != ("-", "-") and any(
            one not in ("-", other) for one, other in zip(new[row], old[row], strict=True)
        ):
            said.append(f"{' | '.join(row)}: {new[row]} instead of {old[row]}")
    return said


def main() -> int:
    """Run the tests; write the page, or compare it.  Returns the exit status."""
    parser = argparse.ArgumentParser(prog="make compatibility", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the page is not what the tests say")
    options, rest = parser.parse_known_args()
    results = Results()
    arguments = [str(ROOT / "tests" / "compatibility"), "-p", "no:cacheprovider", *(rest or SIDE_BY_SIDE)]
    code = pytest.main(arguments, plugins=[results])
    if rest:
        return int(code)  # a part of them
    page = f"{HEAD}On Python {platform.python_version()}, {platform.system()}.\n\n{results.tables()}"
    if not options.check:
        PAGE.write_text(page)
        return int(code)
    wrong = differences(page, PAGE.read_text())
    if wrong:
        sys.stderr.write(
            "\n".join([f"{PAGE.name} is not what the tests say; write it anew: make compatibility", *wrong, ""])
        )
        return 1
    return int(code)


if __name__ == "__main__":
    raise SystemExit(main())
