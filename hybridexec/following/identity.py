"""Identity: who "this thread" is to the code of a loop that moves.

On asyncio all coroutines of a loop run on one thread, and programs use that thread's identity as the loop's: asgiref's
``Local`` marks its data with it, registries are keyed by it, a new ``threading.Thread`` is a daemon if the current one
is.  So while an LWP wears its home's thread-locals (``thread_locals.py``), ``threading.get_ident()`` and
``threading.current_thread()`` name the home there.

``threading.get_ident`` is replaced when this package is imported; for all other threads it does what it did.  What asks
the system is left alone: ``_thread.get_ident`` (the import lock tells owners apart by it), ``threading.get_native_id``,
and whatever is written in C.  This package asks ``os_ident`` (``platform/threads.py``).

A thread that forks is itself for that moment: the child makes it its main thread.
"""

from __future__ import annotations

import functools
import os
import threading

from ..platform.patches import Patch
from ..platform.threads import os_ident

_seen: dict[int, int] = {}
"""By the identity of an LWP's thread, the one that it shows.  Each thread changes its own entry alone."""

_forking: dict[int, int] = {}


@functools.wraps(threading.get_ident)
def get_ident() -> int:
    """As ``threading.get_ident``."""
    ident = os_ident()
    return _seen.get(ident, ident)


def show(ident: int) -> None:
    """The calling thread is to be taken for another one."""
    _seen[os_ident()] = ident


def hide() -> None:
    """The calling thread is itself again."""
    _seen.pop(os_ident(), None)


def _before_fork() -> None:
    ident = os_ident()
    if ident in _seen:
        _forking[ident] = _seen.pop(ident)


def _in_parent() -> None:
    ident = os_ident()
    if ident in _forking:
        _seen[ident] = _forking.pop(ident)


def _in_child() -> None:
    _seen.clear()
    _forking.clear()


Patch(threading, "get_ident", get_ident)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
