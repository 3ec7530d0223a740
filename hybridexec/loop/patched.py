"""Patched: processes whose threads are no threads.

gevent's and eventlet's ``monkey_patch`` put greenlets in the place of threads, and locks that switch greenlets in the
place of locks, or of the calls that a poll is made of.  A loop cannot move to a thread that is a greenlet of the same
one, and who waits for it would wait for ever.  What is there now tells that, whichever library has put it there, and
whether this package was imported before or after.
"""

from __future__ import annotations

import _thread
import select
import types

_GREEN = ("eventlet", "gevent")
"""Libraries whose ``select`` switches greenlets.  Others wrap it, and do not."""


def complaint() -> str | None:
    """Why no loop of this package can run in this process as it is now; None if one can."""
    for function in (_thread.allocate_lock, _thread.get_ident):
        if not isinstance(function, types.BuiltinFunctionType):
            return _says(_package(function), "threads and locks are greenlets")
    package = _package(select.select)
    if package in _GREEN:
        return _says(package, "select and sleep switch greenlets")
    return None


def check() -> None:
    """Refuse to go on where no loop can run.

    Raises:
        RuntimeError: threads are greenlets here.
    """
    wrong = complaint()
    if wrong is not None:
        raise RuntimeError(wrong)


def _package(function: object) -> str:
    return str(getattr(function, "__module__", None) or "another library").partition(".")[0]


def _says(package: str, what: str) -> str:
    return (
        f"{package} has patched the standard library: {what} in this process, so that an event loop cannot move to "
        "another thread; do without its monkey patch, or run this program on asyncio's own loop"
    )
