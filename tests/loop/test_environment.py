"""An environment that no loop can be made with is one line, whoever makes the loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import HYBRIDEXEC, RUN, execute, write

import hybridexec

WRONG = [
    ("HYBRIDEXEC_MODE", "hunter2", "allowed are 'handoff', 'observe', 'raise'"),
    ("HYBRIDEXEC_THRESHOLD", "hunter2", "allowed is a number of seconds"),
    ("HYBRIDEXEC_TOKEN", "hunter2", "allowed are HYBRIDEXEC_MODE, "),
    ("HYBRIDEXEC_INSTRUMENTS", "json:hunter2", "allowed is a list of module:class or module:object"),
]

CASES = pytest.mark.parametrize(("variable", "text", "allowed"), WRONG, ids=[variable for variable, *_ in WRONG])

APP = """
async def app(scope, receive, send):
    raise AssertionError("was run")
"""

SCRIPT = """
import asyncio

async def main():
    print("was run")

asyncio.run(main())
"""


def assert_one_line(done: subprocess.CompletedProcess[str], variable: str, allowed: str) -> None:
    """A process has ended by a line that names the variable and what is allowed."""
    assert "Traceback" not in done.stderr
    assert "never awaited" not in done.stderr
    assert "was run" not in done.stdout
    (line,) = (line for line in done.stderr.splitlines() if allowed in line)
    assert variable in line
    if variable != "HYBRIDEXEC_INSTRUMENTS":  # which is a name, and shown
        assert "hunter2" not in done.stdout + done.stderr


@CASES
@pytest.mark.parametrize("factory", ["new_event_loop", "raise_event_loop"])
def test_under_uvicorn(tmp_path: Path, variable: str, text: str, allowed: str, factory: str) -> None:
    write(tmp_path / "program.py", APP)
    uvicorn = (sys.executable, "-m", "uvicorn", "--port", "0", "--loop", f"hybridexec:{factory}", "program:app")
    if variable == "HYBRIDEXEC_MODE" and factory == "raise_event_loop":
        pytest.skip("the mode of the environment does not matter there")
    done = execute(*uvicorn, cwd=tmp_path, **{variable: text})
    assert done.returncode == 1
    assert_one_line(done, variable, allowed)
    assert done.stderr.count("\n") == 1


@CASES
@pytest.mark.parametrize(
    "command", [[*RUN, "script.py"], [*RUN, "-m", "script"], [*HYBRIDEXEC, "serve", "--port", "0", "program:app"]]
)
def test_where_we_are_the_command(tmp_path: Path, variable: str, text: str, allowed: str, command: list[str]) -> None:
    write(tmp_path / "program.py", APP)
    write(tmp_path / "script.py", SCRIPT)
    done = execute(*command, cwd=tmp_path, **{variable: text})
    assert done.returncode == 2
    assert_one_line(done, variable, allowed)


@CASES
def test_under_pytest(tmp_path: Path, variable: str, text: str, allowed: str) -> None:
    write(tmp_path / "test_it.py", "def test_it():\n    print('was run')\n")
    pytest_itself = (sys.executable, "-m", "pytest", "--hybridexec", "-p", "no:cacheprovider")
    done = execute(*pytest_itself, cwd=tmp_path, **{variable: text})
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert_one_line(done, variable, allowed)


def test_a_program_that_runs_on_our_loop_by_itself(tmp_path: Path) -> None:
    script = write(tmp_path / "script.py", SCRIPT.replace("asyncio.run", "__import__('hybridexec').run"))
    done = execute(sys.executable, script, cwd=tmp_path, HYBRIDEXEC_MODE="hunter2")
    assert done.returncode == 1
    assert_one_line(done, "HYBRIDEXEC_MODE", "allowed are 'handoff'")
    assert done.stderr.count("\n") == 1


def test_it_can_be_handled_as_any_other_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDEXEC_MODE", "nonsense")
    with pytest.raises(ValueError, match="HYBRIDEXEC_MODE"):
        hybridexec.new_event_loop()

    async def main() -> None:
        pytest.fail("was run")

    coroutine = main()
    try:
        hybridexec.run(coroutine)
    except Exception as exc:
        assert isinstance(exc, hybridexec.WrongEnvironmentError)
    with pytest.raises(RuntimeError, match="cannot reuse"):
        asyncio.run(coroutine)


def test_an_instrument_of_the_environment_is_one_for_all_loops_and_another_in_a_child(tmp_path: Path) -> None:
    write(
        tmp_path / "metrics.py",
        """
        import hybridexec, os

        class Metric(hybridexec.Instrument):
            made = []

            def __init__(self):
                assert os.getpid() not in self.made, "a metric of this name exists already"
                self.made.append(os.getpid())

        metric = hybridexec.Instrument()
        """,
    )
    script = write(
        tmp_path / "script.py",
        """
        import os, hybridexec, metrics

        async def main():
            pass

        hybridexec.run(main())
        hybridexec.run(main())
        if hasattr(os, "fork"):
            if (child := os.fork()) == 0:
                hybridexec.run(main())
                assert len(set(metrics.Metric.made)) == 2
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        print(len(metrics.Metric.made), hybridexec.Config.from_env().instruments[1] is metrics.metric)
        """,
    )
    done = execute(sys.executable, script, cwd=tmp_path, HYBRIDEXEC_INSTRUMENTS="metrics:Metric,metrics:metric")
    assert done.stdout == "1 True\n", done.stderr
