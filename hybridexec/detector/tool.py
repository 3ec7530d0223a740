"""The detector's place in ``sys.monitoring`` (PEP 669): one tool id for the process, taken while any loop is open.

Any code can take it away: free the id, turn its events off, register callbacks of its own.  The sampler looks for that
(``check``).  What was changed is put back while the id is ours; else the detector is blind, and leaves all steps alone.
"""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Callable
from types import CodeType
from typing import Any

from ..errors import DetectorUnavailableError
from ..platform.threads import os_ident
from ..protocol.lwp import current

NAME = "hybridexec"

CANDIDATES = (3, 4)
"""The tool ids that are nobody's by convention; the others belong to debuggers, coverage, profilers, optimizers."""

_lock = threading.RLock()  # a finalizer may close a loop on a thread that is inside of it
_users = 0
_events = 0
_said = False  # that it was taken away, for as long as the tool id is taken
_callbacks: dict[int, Callable[..., Any]] = {}
id: int = -1
"""The tool id, while it is taken."""


def acquire(callbacks: Callable[[], dict[int, Callable[..., Any]]], events: int) -> None:
    """Take a tool id for one more loop, and register the callbacks if it is the first.

    Raises:
        DetectorUnavailableError: there is no ``sys.monitoring``, or no tool id is free.
    """
    global _users, _events, _said, id
    monitoring = getattr(sys, "monitoring", None)
    if monitoring is None:
        raise DetectorUnavailableError(
            "this interpreter has no sys.monitoring (PEP 669), which hybridexec's detector needs: "
            "use CPython 3.12 or later, or keep this program on asyncio's own loop"
        )
    with _lock:
        if _users == 0:
            id = _take(monitoring)
            _callbacks.update(callbacks())
            for event, callback in _callbacks.items():
                monitoring.register_callback(id, event, callback)
            _events, _said = events, False
            monitoring.set_events(id, events)
            monitoring.restart_events()
        _users += 1


def release(reset: Callable[[], None]) -> None:
    """One loop less needs the tool id; the last one gives it back."""
    global _users, id
    with _lock:
        _users -= 1
        if _users == 0:
            reset()
            if is_ours():
                sys.monitoring.set_events(id, 0)
                for event in _callbacks:
                    sys.monitoring.register_callback(id, event, None)
                sys.monitoring.free_tool_id(id)
            _callbacks.clear()
            id = -1


def _take(monitoring: Any) -> int:
    for candidate in CANDIDATES:
        try:
            monitoring.use_tool_id(candidate, NAME)
        except ValueError:  # taken meanwhile, or before
            continue
        return candidate
    names = ", ".join(f"{c}: {monitoring.get_tool(c)!r}" for c in CANDIDATES)
    raise DetectorUnavailableError(
        f"no tool id of sys.monitoring is free for hybridexec's detector ({names}): "
        "end one of these tools, or free its id with sys.monitoring.free_tool_id()"
    )


def is_ours() -> bool:
    """Whether the tool id is taken, and nobody else has freed or taken it since."""
    return id >= 0 and bool(sys.monitoring.get_tool(id) == NAME)


def set_events(events: int) -> None:
    """Set the events for all code, if that is possible still."""
    if is_ours():
        sys.monitoring.set_events(id, events)


def set_local_events(code: CodeType, events: int) -> None:
    """Set the events for some code, if that is possible still."""
    if is_ours():
        sys.monitoring.set_local_events(id, code, events)


def check(*, callbacks: bool) -> str | None:
    """Put back what others have changed.

    Args:
        callbacks: whether to look at these, too.  That can only be seen by registering them anew, and each time is an
            audit event: seldom, please.

    Returns:
        What has happened, the first time; else None.
    """
    global _said
    with _lock:
        if id < 0:
            return None
        changed = None
        if not is_ours():
            changed = "its tool id was freed: blocks are not detected any more until all loops are closed"
        else:
            monitoring = sys.monitoring
            if monitoring.get_events(id) & _events != _events:
                monitoring.set_events(id, monitoring.get_events(id) | _events)
                changed = "its events were turned off: they are on again"
            for event, callback in _callbacks.items() if callbacks else ():
                if monitoring.register_callback(id, event, callback) is not callback:
                    changed = "its callbacks were replaced: they are registered again"
            if changed is not None:
                monitoring.restart_events()
        if changed is None or _said:
            return None
        _said = True
        return changed


def refresh() -> None:
    """Have every call site that was found harmless looked at again."""
    if id >= 0:
        sys.monitoring.restart_events()


def forked() -> None:
    """This process is a child: the lock may have been held by a thread that is not in it."""
    global _lock
    _lock = threading.RLock()


def _at_exit() -> None:
    """A loop that nobody has closed keeps the tool id, and the thread that ends the interpreter runs finalizers after
    the names of this package's modules are gone: its events are answered without them, as it has no step any more."""
    with _lock:
        for event, callback in _callbacks.items():
            _callbacks[event] = _without_names(callback)
            sys.monitoring.register_callback(id, event, _callbacks[event])


def _without_names(callback: Callable[..., Any]) -> Callable[..., Any]:
    ident, ending, lwps = os_ident, os_ident(), current

    def on_event(*arguments: Any) -> Any:
        return None if ident() == ending and ending not in lwps else callback(*arguments)

    return on_event


atexit.register(_at_exit)
