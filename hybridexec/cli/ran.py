"""Which event loops have run in this process: a report that has seen nothing is to say why.

Every loop says that it runs by ``asyncio._set_running_loop``, ours too; so while a report is wanted a function stands
there that notes the loop's class.
"""

from __future__ import annotations

import asyncio
import functools
from asyncio import events
from typing import Any

from ..loop.loop import HybridLoop
from ..platform.patches import Patch

NOTHING_SEEN = "no blocking call was seen (one of less than 1 ms is not counted)"

_others: set[str] = set()
_ours = False
_watched = False


def watch() -> None:
    """Note from now on which loops run."""
    global _watched
    if _watched:
        return
    _watched = True
    real = events._set_running_loop

    @functools.wraps(real)
    def set_running_loop(loop: Any, /) -> None:
        real(loop)
        if loop is not None:
            _note(loop)

    for owner in (events, asyncio):
        Patch(owner, "_set_running_loop", set_running_loop)


def _note(loop: Any) -> None:
    global _ours
    if isinstance(loop, HybridLoop):
        _ours = True
    else:
        # A class that is made by calling ABCMeta, as qasync's, is said to be abc's.
        kind = next(kind for kind in type(loop).__mro__ if kind.__module__ != "abc")
        _others.add(f"{kind.__module__}.{kind.__qualname__}")


def nothing() -> str:
    """What it means that a report is empty."""
    if _ours or not _watched:
        return NOTHING_SEEN
    if _others:
        return f"no event loop of hybridexec's has run, but {_named()}: no blocking call could be seen"
    return "no event loop has run: no blocking call could be seen"


def besides() -> str:
    """Which loops have run beside ours, where nobody has looked; an empty string if there were none."""
    return f"not looked at, as it is no loop of hybridexec's: {_named()}" if _ours and _others else ""


def _named() -> str:
    return ", ".join(sorted(_others))


def forget() -> None:
    """This process is a child: no loop has run in it yet."""
    global _ours
    _ours = False
    _others.clear()
