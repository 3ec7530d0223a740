"""Faults: what the system refuses, breaks, stops and interrupts, each in a program of its own (``tests/faults/``).

A program that hangs prints the stacks of its threads, and fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from faults.table import FAULTS, Fault, Outcome, play

LIMIT = 60.0


LONG = {
    "code.recursion",
    "files.proc_hidden",
    "processes.exits_blocked",
    "processes.forks",
    "processes.shutdown",
    "refused.memory",
    "refused.processes",
    "times.gil_held",
    "times.suspended",
}
"""Those that take long: they are left to the hunt."""

UNSANITIZED = pytest.mark.unsanitized(reason="AddressSanitizer wants to be preloaded itself")
PRELOADING = {"times.clock_set"}
"""Those that put a library of their own in front of the system's."""


def _gate() -> Iterator[Any]:
    for fault in FAULTS:
        if fault.gate is not None:
            marks = [pytest.mark.hunt] * (str(fault) in LONG) + [UNSANITIZED] * (str(fault) in PRELOADING)
            yield pytest.param(fault, id=str(fault), marks=marks)


@pytest.mark.parametrize("fault", list(_gate()))
def test_fault(fault: Fault) -> None:
    assert fault.gate is not None
    _judge(play(fault, fault.gate, _engine(), LIMIT))


@pytest.mark.hunt
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.gate != fault.hunt], ids=str)
def test_fault_widely(fault: Fault) -> None:
    _judge(play(fault, fault.hunt, _engine(), fault.limit))


def _judge(outcome: Outcome) -> None:
    assert outcome.survived, outcome.output
    if outcome.skipped:
        pytest.skip(outcome.skipped.removeprefix("skipped: "))


def _engine() -> str:
    return os.environ.get("HYBRIDEXEC_ENGINE", "native")
