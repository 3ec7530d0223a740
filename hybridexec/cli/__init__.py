"""The command line: ``hybridexec run``, ``serve``, ``demo`` and ``doctor``.  Needs the extra ``cli``."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ..observing.program import explained
from .extra import lacking


def main() -> None:
    """Parse the command line and do what it says.

    Returns:
        When the program has ended as ``python`` ends with status 0.

    Raises:
        SystemExit: 2 for bad arguments and a wrong environment, 1 without the extra ``cli``, or what the program ends
            with.
        BaseException: what the program raises; its traceback is shown without the frames of the command line.
    """
    todo: list[Callable[[], None]] = []
    try:
        from . import app

        app.parse(todo)
    except ModuleNotFoundError as exc:
        raise lacking(exc) from None
    except (ImportError, MemoryError, OSError) as exc:  # the system has too little to give
        raise SystemExit(f"hybridexec: the command line cannot start: {explained(exc)}") from None
    except SystemExit:
        if not todo:  # a help text, or bad arguments
            raise
    from ..errors import WrongEnvironmentError

    # Outside of the parser, which has ideas of its own about exceptions, signals and exit statuses.
    try:
        for do in todo:
            do()
    except WrongEnvironmentError as exc:
        print(f"hybridexec: {exc}", file=sys.stderr)
        raise SystemExit(2) from None
