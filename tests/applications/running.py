"""How an application is started: by its own command, under ``hybridexec run``."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from compatibility.service import APPS as BLOCKING
from compatibility.service import Backend, Service, serving

APPS = Path(__file__).parent / "apps"
RUN = ["-m", "hybridexec", "run"]

VARIABLES = {
    "PYTHONPATH": f"{APPS}:{BLOCKING}",  # what blocks is there
    # Large applications deprecate a lot and leave a lot open, on every loop; this is about coroutines.
    "PYTHONWARNINGS": "ignore,default::RuntimeWarning",
}
"""What is set for an application."""

INTERRUPTED = ["Traceback", "KeyboardInterrupt", "CancelledError", "During handling", r"^\s+raise ", r'^\s*File "']
"""What those say that do not catch Ctrl-C, on every loop."""


def script(name: str) -> str:
    """The path of a console script of this environment's, as a word of a command."""
    return os.fspath(Path(sys.executable).parent / name)


def application(
    *command: str,
    engine: str,
    port: int | None = None,
    backend: Backend | None = None,
    listens: bool = True,
    **variables: str,
) -> AbstractContextManager[Service]:
    """An application that runs in ``apps/``, and is gone afterwards.

    Args:
        command: what comes after ``hybridexec run``; ``{port}`` stands for a free port.
        engine: the engine.
        port: the port; a free one if it is not given.
        backend: what its handlers can ask.
        listens: whether to wait until it listens on the port.
        variables: more of the environment.
    """
    return serving(
        [*RUN, *command],
        engine=engine,
        port=port,
        folder=APPS,
        backend=backend,
        listens=listens,
        **{**VARIABLES, **variables},
    )
