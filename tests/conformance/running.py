"""Running: test modules, each in a process of its own, some at a time."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from . import PACKAGE
from .outcome import Outcome

TEST_LIMIT = 60.0
"""Seconds that a test may take; then the stacks of all threads are dumped, and its process ends."""

BRIEF_LIMIT = 10.0
"""The same for a test that is known to hang."""

SILENCE_LIMIT = 150.0
"""Seconds after which a process is killed in which no test has begun or ended: it does not even end by itself."""

_GUARDED = 'exec 3<&0; (read _; kill -s KILL 0) <&3 >/dev/null 2>&1 & exec "$@" </dev/null 3<&-'
"""A shell's: run a command, and beside it what reads the shell's input, which nobody writes to.  That ends when whoever
has started the shell does, however that was, and then all of the shell's process group is killed."""

_PLATFORM = ("test_windows_events", "test_windows_utils")


@dataclasses.dataclass
class Test:
    """What has become of one test, why, and how many seconds it has taken."""

    name: str
    outcome: Outcome
    why: str
    lasted: float


def modules() -> list[str]:
    """The interpreter's test modules; none if it comes without."""
    try:
        spec = importlib.util.find_spec(PACKAGE)
    except ModuleNotFoundError:
        return []
    places = (spec.submodule_search_locations if spec is not None else None) or []
    found = {path.stem for place in places for path in Path(place).glob("test_*.py")}
    return sorted(found.difference(_PLATFORM))


def run(
    jobs: Iterable[tuple[str, str]], workers: int, only: Sequence[str] = (), brief: Sequence[str] = ()
) -> dict[tuple[str, str], list[Test]]:
    """Run modules.

    Args:
        jobs: pairs of an engine, or "asyncio", and a module.
        workers: how many processes at a time.
        only: names of the tests to run; all if there are none.
        brief: names, maybe with ``*``, of those that are known to hang.

    Returns:
        For each job what has become of its tests.
    """
    jobs = list(jobs)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return dict(zip(jobs, pool.map(lambda job: _job(job[0], job[1], only, brief), jobs), strict=True))


def _job(engine: str, module: str, only: Sequence[str], brief: Sequence[str]) -> list[Test]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        log.touch()
        command = [sys.executable, *_interpreter_options(), "-m", "tests.conformance.child", module]
        command += ["--engine", engine, "--log", str(log), "--limit", str(TEST_LIMIT)]
        command += ["--brief-limit", str(BRIEF_LIMIT), "--brief", *brief]
        if only:
            command += ["--only", *only]
        tests: dict[str, Test] = {}
        while True:
            code, said = _process(command, folder, log)
            begun = None
            for line in map(json.loads, log.read_text().splitlines()):
                name = line["test"]
                if line["outcome"] is None:
                    begun = name
                else:
                    tests[name] = Test(name, Outcome(line["outcome"]), line["why"], line["lasted"])
                    begun = None
            if begun is None:
                break
            tests[begun] = Test(begun, Outcome.HUNG, said, 0.0)
            with log.open("a") as file:
                file.write(json.dumps({"test": begun, "outcome": Outcome.HUNG.value, "why": said, "lasted": 0}) + "\n")
        if code or (not tests and not only):  # it has not begun, or did not come to its end
            tests[module] = Test(module, Outcome.FAILED, said, 0.0)
        return list(tests.values())


def _process(command: list[str], folder: str, log: Path) -> tuple[int, str]:
    """Run a process to its end, or for as long as its log grows; its exit status, and what it has said.

    Whatever it has started itself ends with it, and all of them end with this process.
    """
    environment = os.environ | {"TMPDIR": folder, "PYTHONPATH": os.getcwd()}
    told = log.stat().st_size
    said = Path(folder, "said")  # no pipe: what the process leaves behind would keep that open
    with said.open("ab") as output:
        process = subprocess.Popen(
            ["sh", "-c", _GUARDED, "guard", *command],
            cwd=folder,  # some leave files behind
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    outcome = ""
    try:
        while not _ends(process):
            if log.stat().st_size == told:
                outcome = f"killed after {SILENCE_LIMIT:.0f} s, "
                break
            told = log.stat().st_size
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
    text = said.read_text(errors="replace")
    said.unlink()
    return process.returncode, f"{text}\n{outcome}ended with {process.returncode}"


def _ends(process: subprocess.Popen[bytes]) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(SILENCE_LIMIT)
        return True
    return False


def _interpreter_options() -> list[str]:
    """How this interpreter was called, as for -W and -X."""
    options = [f"-W{option}" for option in sys.warnoptions]
    options += [f"-X{name}" if value is True else f"-X{name}={value}" for name, value in sys._xoptions.items()]
    return options
