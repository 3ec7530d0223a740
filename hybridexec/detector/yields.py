"""Yields: steps that may be suspended inside of a ``with`` statement.

Before 3.14 entering a ``with`` statement is no event, so an ``RLock`` that is taken by one and held across an ``await``
goes unseen.  But suspending is an event (PY_YIELD), and code without a ``with`` statement answers ``DISABLE`` to it the
first time; for the rest it is noted that the end of the step has to be looked at, and whose code it is
(``following/rlocks.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import dis
import functools
import sys
import weakref
from types import CodeType
from typing import Any

from ..platform.threads import os_ident
from ..protocol.lwp import current
from .failing import failed

_BEFORE_WITH = dis.opmap.get("BEFORE_WITH", -1)

EVENTS = 0 if _BEFORE_WITH < 0 else sys.monitoring.events.PY_YIELD
"""The events that are needed: none since 3.14."""


_with: dict[int, weakref.ref[CodeType]] = {}
"""Code that has a ``with`` statement, by its identity: each look copies the code.  What is known goes with it."""


def _has_with(code: CodeType) -> bool:
    if _BEFORE_WITH not in code.co_code[::2]:
        return False
    _with[id(code)] = weakref.ref(code, functools.partial(_with.pop, id(code)))
    return True


def on_yield(code: CodeType, offset: int, value: object) -> Any:
    """PY_YIELD: a coroutine or a generator is suspended."""
    try:
        if id(code) not in _with and not _has_with(code):
            return sys.monitoring.DISABLE
        _note()
    except BaseException as exc:
        with contextlib.suppress(Exception):
            _note()  # once more: an RLock that nobody knows of stays behind when the loop moves
        failed(exc)
    return None


def _note() -> None:
    """Note whose code was suspended, and that the end of the step is to be looked at."""
    lwp = current.get(os_ident())
    if lwp is not None:
        lwp.luggage.suspended.append(asyncio.current_task(lwp.watch.reactions.loop))
        lwp.luggage.check_bindings = lwp.slow_exit = True
