"""Child: one test module of CPython's, in a process of its own.

It writes a line of JSON when a test begins and when it is over.  So whoever reads them knows in which test it hung or
died, and may start it again: tests that the file tells of already are left out.
"""

from __future__ import annotations

import argparse
import faulthandler
import fnmatch
import json
import sys
import time
import traceback
import unittest
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from . import PACKAGE
from .outcome import Outcome


def main() -> None:
    """Run a module, or some of its tests."""
    parser = argparse.ArgumentParser()
    parser.add_argument("module")
    parser.add_argument("--engine", required=True, help="or 'asyncio'")
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--limit", type=float, required=True, help="seconds that a test may take")
    parser.add_argument("--brief-limit", type=float, required=True, help="seconds for one that is known to hang")
    parser.add_argument("--brief", nargs="*", help="which these are")
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    if arguments.engine != "asyncio":
        from .swap import install

        install(arguments.engine)
    known = {line["test"] for line in map(json.loads, arguments.log.read_text().splitlines())}
    suite = unittest.defaultTestLoader.loadTestsFromName(f"{PACKAGE}.{arguments.module}")
    chosen = [
        test
        for test in _flat(suite)
        if name_of(test) not in known and (not arguments.only or name_of(test) in arguments.only)
    ]
    with arguments.log.open("a", buffering=1) as log:
        if not sys.warnoptions:
            warnings.simplefilter("default")  # as unittest's own runner does

        def limit(name: str) -> float:
            hangs = any(fnmatch.fnmatchcase(name, pattern) for pattern in arguments.brief)
            return float(arguments.brief_limit if hangs else arguments.limit)

        unittest.TestSuite(chosen).run(_Result(log, limit))
    faulthandler.dump_traceback_later(arguments.limit, exit=True)  # what is left has to end, too


def name_of(test: Any) -> str:
    """A test's name, as the tables have it."""
    name: str = test.id()
    return name.replace(f"{PACKAGE}.", "")


def _flat(suite: Any) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from _flat(test)
        else:
            yield test


class _Result(unittest.TestResult):
    def __init__(self, log: TextIO, limit: Callable[[str], float]) -> None:
        super().__init__()
        self._log = log
        self._limit = limit
        self._outcome = Outcome.PASSED
        self._why: list[str] = []
        self._began = time.monotonic()  # in 3.12 a class that is skipped stops tests that it has not started

    def printErrors(self) -> None:  # what TextTestRunner asks for
        """They are told one by one."""

    def _note(self, outcome: Outcome, why: str) -> None:
        if self._outcome is not Outcome.FAILED:
            self._outcome = outcome
        self._why.append(why)

    def _write(self, test: Any, **what: Any) -> None:
        self._log.write(json.dumps({"test": name_of(test), **what}) + "\n")

    def startTest(self, test: Any) -> None:
        super().startTest(test)
        self._outcome, self._why, self._began = Outcome.PASSED, [], time.monotonic()
        self._write(test, outcome=None)
        faulthandler.dump_traceback_later(self._limit(name_of(test)), exit=True)

    def stopTest(self, test: Any) -> None:
        super().stopTest(test)
        faulthandler.cancel_dump_traceback_later()
        self._tell(test, time.monotonic() - self._began)

    def _tell(self, test: Any, lasted: float) -> None:
        self._write(test, outcome=self._outcome.value, why="\n".join(self._why), lasted=lasted)
        self._outcome, self._why = Outcome.PASSED, []

    def addError(self, test: Any, err: Any) -> None:
        self._note(Outcome.FAILED, "".join(traceback.format_exception(*err)))
        if not isinstance(test, unittest.TestCase):  # of a class or a module
            self._tell(test, 0.0)

    def addFailure(self, test: Any, err: Any) -> None:
        self.addError(test, err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self._note(Outcome.FAILED, f"{subtest}: " + "".join(traceback.format_exception(*err)))

    def addSkip(self, test: Any, reason: str) -> None:
        self._note(Outcome.SKIPPED, reason)

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        """CPython's tests have listed it themselves."""

    def addUnexpectedSuccess(self, test: Any) -> None:
        self._note(Outcome.FAILED, "CPython's tests expect it to fail, and it has passed")


if __name__ == "__main__":
    main()
