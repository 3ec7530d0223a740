"""Places: every instruction of this package's protocol, and a signal that comes at one of them.

A place is an instruction of some function.  INSTRUCTION events of another tool tell when the main thread is there.
There are no events inside of a tool's callback, and the detector is made of callbacks; so here these run with events
switched on again, and without their own (``events_in_callbacks``).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import ctypes
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from hybridexec import detector
from hybridexec.detector import calls, trap
from hybridexec.following import following
from hybridexec.loop import loop, turns
from hybridexec.observing import upcalls
from hybridexec.platform.own import DIRECTORY
from hybridexec.protocol import (
    borrowing,
    carrying,
    ending,
    excused,
    homes,
    lwp,
    order,
    polling,
    pool,
    record,
    repair,
    suspending,
    waking,
)
from hybridexec.reactions import affinity, pins, reactions, regions, reporting
from hybridexec.signals import home_side, mailbox, main_thread, nudge
from hybridexec.signals.shield import Shield

SAMPLER = sys.modules["hybridexec.detector.sampler"]  # the package has another thing of that name
MODULES = (
    record,
    order,
    waking,
    repair,
    polling,
    homes,
    carrying,
    excused,
    borrowing,
    suspending,
    ending,
    reactions,
    reporting,
    pins,
    regions,
    trap,
    calls,
    SAMPLER,
    loop,
    turns,
    following,
    lwp,
    pool,
    home_side,
    mailbox,
    main_thread,
    nudge,
    affinity,
    upcalls,
)

type Place = tuple[types.CodeType, int]

TOOL = 2
_INSTRUCTION = sys.monitoring.events.INSTRUCTION


def code_of(module: types.ModuleType) -> Iterator[types.CodeType]:
    """The code of all functions of a module."""
    for thing in vars(module).values():
        if getattr(thing, "__module__", None) == module.__name__:
            for function in vars(thing).values() if isinstance(thing, type) else [thing]:
                function = getattr(function, "__func__", function)
                function = getattr(function, "__wrapped__", function)
                if isinstance(function, types.FunctionType):
                    yield from _nested(function.__code__)


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


CODE = sorted({code for module in MODULES for code in code_of(module)}, key=lambda c: (c.co_filename, c.co_firstlineno))


def name_of(place: Place) -> str:
    """A place, for people."""
    code, offset = place
    line = next((line for start, end, line in code.co_lines() if start <= offset < end), None)
    return f"{os.path.basename(code.co_filename)}:{line} {code.co_qualname} +{offset}"


def came_at(frame: types.FrameType) -> None:
    """What CPython does at some instruction of a frame, when the signal has come."""
    handler: Any = _signal.getsignal(signal.SIGUSR1)
    handler(signal.SIGUSR1, frame)


class Places:
    """Watches the main thread come to places."""

    def __init__(self) -> None:
        self._main = _thread.get_ident()
        sys.monitoring.use_tool_id(TOOL, "places")
        sys.monitoring.register_callback(TOOL, _INSTRUCTION, self._came)
        self._counts: dict[Place, int] = {}
        self._target: Place | None = None
        self._left = 0

    def count(self, scene: Callable[[], object]) -> dict[Place, int]:
        """How often the main thread comes to which places in a scene."""
        self._counts = {}
        for code in CODE:
            sys.monitoring.set_local_events(TOOL, code, _INSTRUCTION)
        try:
            scene()
        finally:
            for code in CODE:
                sys.monitoring.set_local_events(TOOL, code, 0)
        return self._counts

    def strike(self, place: Place, nth: int, scene: Callable[[], object]) -> bool:
        """Play a scene; the signal comes when the main thread is there for the nth time.  Returns whether it was."""
        self._target, self._left = place, nth
        sys.monitoring.set_local_events(TOOL, place[0], _INSTRUCTION)
        try:
            scene()
        finally:
            sys.monitoring.set_local_events(TOOL, place[0], 0)
            struck = self._target is None
            self._target = None
        return struck

    def _came(self, code: types.CodeType, offset: int) -> None:
        if _thread.get_ident() != self._main or not isinstance(_signal.getsignal(signal.SIGUSR1), Shield):
            return  # no loop runs here
        if self._target is None:
            self._counts[code, offset] = self._counts.get((code, offset), 0) + 1
        elif self._target == (code, offset):
            self._left -= 1
            if self._left == 0:
                self._target = None
                came_at(sys._getframe(1))


# To the shield it is the package's own code, as what it stands for would be: a signal that is sent from elsewhere (the
# home is nudged) may come here, too, and must not raise in the middle of the protocol, where a step would be lost.
_OWN = os.path.join(DIRECTORY, "places")
Places._came.__code__ = Places._came.__code__.replace(co_filename=_OWN)

_api: Any = ctypes.pythonapi
for _function in (_api.PyThreadState_EnterTracing, _api.PyThreadState_LeaveTracing):
    _function.argtypes, _function.restype = [ctypes.c_void_p], None
_api.PyThreadState_Get.restype = ctypes.c_void_p

_WITH_EVENTS = compile(
    """
def with_events(callback):
    def inside(*arguments):
        ident = get_ident()
        if ident in busy:
            return None
        state = get_state()
        busy.add(ident)
        leave_tracing(state)
        try:
            return callback(*arguments)
        finally:
            enter_tracing(state)
            busy.discard(ident)
    return inside
""",
    _OWN,
    "exec",
)


def events_in_callbacks() -> None:
    """From now on there are events inside of the detector's callbacks, but for its own."""
    namespace: dict[str, Any] = {
        "busy": set(),
        "get_ident": _thread.get_ident,
        "get_state": _api.PyThreadState_Get,
        "leave_tracing": _api.PyThreadState_LeaveTracing,
        "enter_tracing": _api.PyThreadState_EnterTracing,
    }
    exec(_WITH_EVENTS, namespace)
    callbacks = detector._callbacks
    detector._callbacks = lambda: {event: namespace["with_events"](call) for event, call in callbacks().items()}
