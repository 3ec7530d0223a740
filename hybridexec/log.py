"""The log: what this package says to people, through the logger ``hybridexec``.

The protocol speaks while others wait for it, so saying something never fails: what a handler, a filter or a formatter
raises (a full disk) is printed to stderr once, where that can be, and goes no further.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from typing import Any

from .identity import on_main_thread

logger = logging.getLogger("hybridexec")

_reported = False  # what a handler has raised was printed


def say(level: int, message: str, *args: object, exc: BaseException | None = None) -> None:
    """Log a message.  Any thread; also under the protocol's mutex, where no handler may wait for the loop.

    Args:
        level: one of ``logging``'s levels.
        message: a format; names, types and places only, and no values of the program.
        *args: what is put into it.
        exc: an exception whose traceback is logged, too.

    Raises:
        BaseException: on the main thread, what is no ``Exception``: a signal handler has raised it, as far as anybody
            can tell.
    """
    try:
        logger.log(level, message, *args, exc_info=exc)
    except BaseException as failure:
        if not isinstance(failure, Exception) and on_main_thread():
            raise
        _report(failure)


def _report(failure: Any) -> None:
    """Print what a handler has raised, once in the process."""
    global _reported
    with contextlib.suppress(Exception):
        if not _reported:
            _reported = True
            print("hybridexec: a handler of the log has raised:", file=sys.stderr)
            traceback.print_exception(failure, limit=-4, file=sys.stderr)
