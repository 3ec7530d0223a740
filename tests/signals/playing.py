"""Playing programs: each is a function of a module in ``programs/``, and runs in a process of its own.

A test names the function; this file, run as a script, calls it::

    PYTHONPATH=tests/support python tests/signals/playing.py programs.ctrl_c home_waits_for_its_turn '[2]'
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import subprocess
import sys
from collections.abc import Callable

from helpers import environment, lwps

LIMIT = 90
"""Seconds after which a program hangs: it prints the stacks of its threads, and ends."""


def launch[**P](program: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> subprocess.Popen[str]:
    """Start a program, with arguments that JSON knows."""
    assert not kwargs
    return subprocess.Popen(
        [sys.executable, __file__, program.__module__, program.__qualname__, json.dumps(args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def outcome(process: subprocess.Popen[str]) -> tuple[int, list[str], str]:
    """Wait for a program: its exit status, the lines it has printed, and what went to stderr."""
    out, errors = process.communicate(timeout=LIMIT + 10)
    assert "Timeout (" not in errors, f"the program hangs:\n{errors}"
    return process.returncode, out.splitlines(), errors


def play[**P](program: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> list[str]:
    """Run a program that has to end well: what it has printed before its last line."""
    status, lines, errors = outcome(launch(program, *args, **kwargs))
    assert status == 0, errors
    assert lines[-1:] == ["done"], (lines, errors)
    assert "Traceback" not in errors, errors
    return lines[:-1]


def main() -> None:
    """Call the function that the command line names.  Its last line says that no thread of the package is left."""
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    module, name, arguments = sys.argv[1:]
    getattr(importlib.import_module(module), name)(*json.loads(arguments))
    left = lwps()
    assert not left, left
    print("done", flush=True)


if __name__ == "__main__":
    main()
