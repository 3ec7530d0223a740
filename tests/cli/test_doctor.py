"""``hybridexec doctor``: what it looks at, what it tries, and what it makes of that."""

from __future__ import annotations

import importlib.metadata
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import HYBRIDEXEC, execute, write

import hybridexec
from hybridexec.cli import doctor
from hybridexec.cli.doctor import Finding, State
from hybridexec.following import connections, rlocks, thread_locals
from hybridexec.platform import children


def found() -> dict[str, Finding]:
    """All findings by what was looked at."""
    return {finding.check: finding for finding in doctor.examine()}


@pytest.fixture
def taken() -> Iterator[Callable[[int], None]]:
    """Takes tool ids of sys.monitoring for the time of a test."""
    numbers: list[int] = []

    def take(number: int) -> None:
        sys.monitoring.use_tool_id(number, f"tool {number}")
        numbers.append(number)

    yield take
    for number in numbers:
        sys.monitoring.free_tool_id(number)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYBRIDEXEC_ENGINE", raising=False)


def test_all_is_well_here() -> None:
    findings = found()
    assert not [finding for finding in findings.values() if finding.state is State.BROKEN]
    assert sys.version.split()[0] in findings["Python"].says
    assert findings["hybridexec"].says == hybridexec.__version__
    assert findings["anyio"].says == importlib.metadata.version("anyio")
    tried = [finding for check, finding in findings.items() if check.startswith(("selector:", "uvloop:"))]
    assert len(tried) in (2, 4)
    assert all(finding.says == "the loop has moved while a step blocked" for finding in tried)


def test_the_command_shows_it_and_succeeds(tmp_path: Path) -> None:
    shown = execute(*HYBRIDEXEC, "doctor", cwd=tmp_path, HYBRIDEXEC_MAX_LWPS="9", HYBRIDEXEC_ENGINE="selector")
    assert shown.returncode == 0, shown.stdout
    assert not shown.stderr
    assert "HYBRIDEXEC_MAX_LWPS=9" in shown.stdout
    assert "the loop has moved while a step blocked" in shown.stdout
    assert "broken" not in shown.stdout


@pytest.mark.parametrize(("name", "value"), [("HYBRIDEXEC_THRESHOLD", "soon"), ("HYBRIDEXEC_NONSENSE", "1")])
def test_an_environment_that_no_loop_can_be_made_with(tmp_path: Path, name: str, value: str) -> None:
    shown = execute(*HYBRIDEXEC, "doctor", cwd=tmp_path, **{name: value})
    assert shown.returncode == 1
    (line,) = (line for line in shown.stdout.splitlines() if "broken" in line)
    assert f"{name}=<str of length {len(value)}>" in line
    assert "allowed" in line
    assert "Traceback" not in shown.stderr


def test_others_have_the_tool_ids_of_the_detector(tmp_path: Path) -> None:
    script = write(
        tmp_path / "script.py",
        """
        import sys
        from hybridexec.cli import main

        for number in (1, 3, 4):
            sys.monitoring.use_tool_id(number, f"tool {number}")
        main()
        """,
    )
    shown = execute(sys.executable, script, "doctor", cwd=tmp_path)
    assert shown.returncode == 1
    first, *others = (line for line in shown.stdout.splitlines() if "broken" in line)
    assert "1 (coverage): tool 1, 3 (anybody): tool 3, 4 (anybody): tool 4" in first
    assert others
    assert all("no tool id" in line for line in others)


def test_one_tool_id_is_enough(taken: Callable[[int], None]) -> None:
    for number in (0, 1, 3):
        taken(number)
    findings = found()
    assert findings["sys.monitoring"].state is State.FINE
    assert findings["sys.monitoring"].says.startswith("taken: 0 (debuggers): tool 0, 1 (coverage): tool 1, 3")
    assert findings["sys.monitoring"].says.endswith("for the detector: 4")


def test_a_loop_that_does_not_move_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def pinned(lock: Any) -> None:
        with hybridexec.pinned():
            lock.acquire()

    monkeypatch.setitem(doctor._PROGRAM, "acquire", pinned)
    monkeypatch.setattr(doctor, "PATIENCE", 0.05)
    finding = doctor._tried("trial", "selector", doctor._Lock)
    assert finding.state is State.BROKEN
    assert "has not moved" in finding.says


def test_features_that_are_off_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_locals, "of_this_thread", lambda: None)
    monkeypatch.setattr(rlocks, "FOLLOW", False)
    monkeypatch.setattr(connections, "fields", lambda: None)
    monkeypatch.setattr(children, "CHILDREN", "/nonexistent")
    probes = {finding.check: finding for finding in doctor._probes()}
    assert {finding.state for finding in probes.values()} == {State.OFF}
    assert "hybridexec.bound()" in probes["threading.local"].says
    assert "layout" in probes["sqlite3"].says
    monkeypatch.setattr(sqlite3, "threadsafety", 1)
    assert any("threadsafety 1" in finding.says for finding in doctor._probes())


def test_uvloop_is_missing_or_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "0.19.0")
    monkeypatch.setitem(sys.modules, "uvloop", type(sys)("uvloop"))
    assert doctor._uvloop() == Finding("uvloop", State.OFF, "0.19.0 is too old: 0.23 is needed")
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert doctor._uvloop().state is State.OFF
    monkeypatch.setenv("HYBRIDEXEC_ENGINE", "uvloop")
    assert doctor._uvloop().state is State.BROKEN
