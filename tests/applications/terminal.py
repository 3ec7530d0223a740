"""An application that wants a terminal: it gets one, and what it shows is read."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pexpect
from compatibility.service import LIMIT

from applications.running import APPS, RUN, VARIABLES


class Screen:
    """A process and its terminal.

    Attributes:
        process: pexpect's, for what else it can do.
    """

    def __init__(self, process: Any) -> None:
        self.process = process

    def press(self, text: str) -> None:
        """Press keys."""
        self.process.send(text)

    def wait_for(self, text: str) -> None:
        """Until it shows so, behind what has been waited for."""
        self.process.expect_exact(text)

    def wait_for_its_end(self) -> tuple[int | None, int | None]:
        """Until it has ended.  Returns its exit status, or the signal that has ended it."""
        self.process.expect(pexpect.EOF)
        self.process.wait()
        return self.process.exitstatus, self.process.signalstatus


@contextlib.contextmanager
def terminal(*command: str, engine: str, **variables: str) -> Iterator[Screen]:
    """A program under ``hybridexec run`` in a terminal; it is gone afterwards.

    Args:
        command: what comes after ``hybridexec run``.
        engine: the engine.
        variables: more of the environment.
    """
    environment = {
        **os.environ, **VARIABLES, "HYBRIDEXEC_ENGINE": engine, "PYTHONFAULTHANDLER": "1", "TERM": "xterm", **variables,
    }  # fmt: skip
    process = pexpect.spawn(
        sys.executable,
        [*RUN, *command],
        cwd=APPS,
        env=environment,
        timeout=LIMIT,
        dimensions=(40, 120),
        encoding="utf-8",
        codec_errors="replace",
    )
    try:
        yield Screen(process)
    finally:
        if process.isalive():
            process.kill(signal.SIGKILL)
        process.close()
