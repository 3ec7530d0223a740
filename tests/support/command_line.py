"""The command line in a process of its own, alone or beside ``python`` itself."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from helpers import environment

HYBRIDEXEC = (sys.executable, "-m", "hybridexec")
RUN = (*HYBRIDEXEC, "run")


def execute(*command: str, cwd: Path, text: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command, cwd=cwd, env=environment(**variables), input=text, capture_output=True, text=True, timeout=100
    )


def write(path: Path, source: str) -> str:
    """Write a program; its name."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(source))
    return path.name


def assert_as_python(cwd: Path, *arguments: str, text: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """The command line does what ``python`` does with these arguments, to the letter."""
    expected = execute(sys.executable, *arguments, cwd=cwd, text=text, **variables)
    found = execute(*RUN, *arguments, cwd=cwd, text=text, **variables)
    assert found.stdout == expected.stdout
    assert found.stderr == expected.stderr
    assert found.returncode == expected.returncode
    return found


def assert_but_for_who_speaks(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line gives up with the message and the status of ``python``, in its own name."""
    expected = execute(sys.executable, *arguments, cwd=cwd)
    found = execute(*RUN, *arguments, cwd=cwd)
    assert found.returncode == expected.returncode != 0
    speaker, _, message = found.stderr.partition(": ")
    assert speaker == "hybridexec"
    assert message == expected.stderr.partition(": ")[2]
    assert not found.stdout
    return found
