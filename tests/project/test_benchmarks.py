"""The benchmarks work, and say what they have to.  What they measure is no matter of tests."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, environment

pytestmark = pytest.mark.slow

TIME_LIMIT = 110


def offloaded(times: float) -> dict[str, tuple[str, float]]:
    """What a handler that blocks has to reach, by the same one offloaded by hand."""
    return {
        "by-offloaded": (">=", times),
        "p99-by-offloaded": ("<=", 1.0),
        "added-by-offloaded": ("<=", 0.5),
        "errors": ("<=", 0),
    }


BARS: dict[str, dict[str, tuple[str, float]]] = {
    "sleep": {"took": ("<=", 0.40), "late": ("<=", 10)},
    "ctypes": {"took": ("<=", 0.45), "late": ("<=", 20)},
    "lock-acquire": {"still": ("<=", 15), "goes-on": ("<=", 15)},
    "lock-with": {"still": ("<=", 15), "goes-on": ("<=", 15)},
    "pipe": {"still": ("<=", 10), "goes-on": ("<=", 10)},
    "preempt": {"late": ("<=", 60)},
    "blocking-20ms": {"of-ceiling": (">=", 0.70), **offloaded(0.97)},
    "blocking-5ms": offloaded(1.3),
    "blocking-1ms": offloaded(1.3),
    "stops": {"unclean": ("<=", 0)},
    "plain": {"by-uvloop": (">=", 1.1), "errors": ("<=", 0)},
    "plain-uvloop": {"by-uvloop": (">=", 0.97), "errors": ("<=", 0)},
    "calls": {},
    "steps": {f"{step}-by-uvloop": ("<=", 0.9) for step in ("turn", "timer", "yield", "task")},
    "echo": {f"{shape}-by-uvloop": (">=", 1.0) for shape in ("64x1k", "1x1k", "16x64k")},
    "echo-tls": {f"{shape}-by-uvloop": (">=", 1.0) for shape in ("16x1k", "16x64k")},
    "bridge": {},
    "database": {"by-alone": ("<=", 2.0)},
    "submit": {
        "outside-by-pool": (">=", 0.97),
        "outside-processor-by-pool": ("<=", 1.3),
        "inside-by-pool": (">=", 0.9),
        "inside-processor-by-pool": ("<=", 1.0),
    },
    "many": {"lost": ("<=", 0), "memory": ("<=", 3)},
    "asleep": {"took": ("<=", 1.3)},
    "compress": {"times": (">=", 1.7)},
    "create": {},
    "switch": {},
    "memory": {},
    "block": {},
}
"""What is promised, by benchmark: a figure that is judged by another bar is not what was promised."""

COUNTS = {"errors", "lost", "unclean"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
    )


@pytest.mark.unsanitized(reason="the peers are too slow for a figure")
@pytest.mark.parametrize("name", BARS)
def test_a_benchmark_measures_what_it_is_judged_by(name: str, tmp_path: Path) -> None:
    done = run("--quick", "--only", name, "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["quick"] is True
    assert figures["machine"]["cores"] >= 1
    assert figures["machine"]["python"] == platform.python_version()
    rows = {row["name"]: row for row in figures["rows"]}
    assert len(rows) == len(figures["rows"]) > 0
    judged: dict[str, tuple[str, float]] = {}
    for full, row in rows.items():
        benchmark, figure = full.split(".")
        assert benchmark == name
        assert full in done.stdout
        assert math.isfinite(row["value"]), row
        # What is counted, and not timed, has to be right however short the run is.
        if figure in COUNTS:
            assert row["value"] == 0, done.stderr
        else:
            assert row["value"] > 0, row
        if row["bar"] is None:
            assert row["passed"] is None
            continue
        limit, at_least = row["bar"]["limit"], row["bar"]["at_least"]
        assert row["bar"]["unit"] == row["unit"]
        assert row["passed"] is (row["value"] >= limit if at_least else row["value"] <= limit)
        judged[figure] = (">=" if at_least else "<=", limit)
    assert judged == BARS[name]


def test_groups_and_names_can_be_chosen_together(tmp_path: Path) -> None:
    done = run("--quick", "--only", "costs", "--only", "pipe", "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert {row["name"].split(".")[0] for row in rows} == {"pipe", "calls", "steps"}


def test_the_list_names_every_benchmark_and_measures_nothing() -> None:
    done = run("--list")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    words = done.stdout.split()
    assert set(BARS) <= set(words)
    assert {"ticker", "serving", "costs", "executor"} <= set(words)


def test_an_unknown_name_is_refused() -> None:
    done = run("--only", "nonsense")
    assert done.returncode == 2
    assert "nonsense" in done.stderr
    assert "ticker" in done.stderr


@pytest.mark.parametrize("loop", ["asyncio", "hybridexec:new_event_loop"])
def test_a_server_ends_with_the_benchmark(loop: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.server", "blocking", loop, "0.02"],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            assert json.loads(server.stdout.readline())["port"] > 0
            server.stdin.close()  # as the end of the process that holds it does
            assert json.loads(server.stdout.readline()) == {"began": 0, "ended": 0}
            server.wait(TIME_LIMIT)
            assert server.stderr.read() == ""
        finally:
            server.kill()
