"""Traps: how a step that stands in an undeclared call is stopped before its next instruction.

Arming a trap turns on INSTRUCTION events for the code of the innermost frame of the step.  The event comes in the
trapped thread, before anything else of that frame is executed, and its callback waits there until the LWP holds the
loop.  A call may also end without another instruction of that frame: by raising out of it (RAISE), or by calling back
into Python from C (PY_START, PY_RESUME).  The last two are on for all code while any trap is armed, RAISE always.

Many tasks run the same code: it stays armed until its last trapped LWP has come back.

There are no events while a tracer, a profiler or another tool's callback runs.  What stands in a call there is trapped
where it goes on: in the code that was interrupted (``interrupted``).
"""

from __future__ import annotations

import asyncio
import dis
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FrameType
from typing import Any

from ..platform.own import own
from ..platform.threads import os_ident
from ..protocol.lwp import LWP, LwpState, current
from . import tool, yields
from .calls import Call
from .failing import failed

_E = sys.monitoring.events
BASE_EVENTS = _E.CALL | _E.RAISE | yields.EVENTS
"""The events that are on for all code."""
_ESCAPES = _E.PY_START | _E.PY_RESUME


_AWAY = (LwpState.BLOCKED, LwpState.RETURNING, LwpState.PREEMPTED)


class Trap:
    """A trap for one step of one LWP.

    Attributes:
        lwp: whose step it is for.
        step: the callback that the step runs.
        codes: the code of the innermost frame, and maybe of frames that it has interrupted; nothing if only the
            escapes are watched.
        call: the call that it stands in; None if it was trapped for its time slice.
        sprung: whether the thread has come to it.
    """

    __slots__ = ("call", "codes", "lwp", "sprung", "step")

    def __init__(self, lwp: LWP, step: asyncio.Handle, codes: Iterable[CodeType], call: Call | None) -> None:
        self.lwp = lwp
        self.step = step
        self.codes = frozenset(codes)
        self.call = call
        self.sprung = False


def _instructions(*beginnings: str) -> frozenset[int]:
    return frozenset(code for name, code in dis.opmap.items() if name.startswith(beginnings))


_PLAIN = _instructions("JUMP", "POP_JUMP", "RESUME", "LOAD_CONST", "LOAD_FAST", "STORE_FAST")
_RETURNS = _instructions("RETURN")


def may_call(code: CodeType, offset: int) -> bool:
    """Whether an instruction may run other code."""
    return code.co_code[offset] not in _PLAIN


def interrupted(frame: FrameType, runners: frozenset[CodeType]) -> Iterator[CodeType]:
    """The code that goes on when what a tracer or another tool has called is over, if that is where a thread stands.

    Args:
        frame: the innermost frame of a step.
        runners: the code whose frames run steps.
    """
    outer: list[FrameType] = []
    while (caller := frame.f_back) is not None and caller.f_code not in runners:
        outer.append(frame := caller)
    if _other_tools() or any(f.f_trace is not None or _calls_nothing(f) for f in outer):
        for f in outer:
            yield f.f_code


def _calls_nothing(frame: FrameType) -> bool:
    """Whether a frame has not called what runs above it."""
    return not may_call(frame.f_code, frame.f_lasti) or frame.f_code.co_code[frame.f_lasti] in _RETURNS


def _other_tools() -> bool:
    return any(number != tool.id and sys.monitoring.get_tool(number) is not None for number in range(6))


class _Armory:
    def __init__(self) -> None:
        # One that knows its owner: a finalizer may run on a thread that is inside of it, and is not trapped there.
        self.lock = threading.RLock()
        self.inside: Callable[[], bool] = self.lock._is_owned  # type: ignore[attr-defined]
        self.codes: dict[int, tuple[CodeType, int]] = {}
        self.armed = 0
        self.escapes = False


_armory = _Armory()


def arm(trap: Trap, over: Trap | None = None) -> bool:
    """Arm a trap.  Any thread, usually the sampler's.

    Args:
        trap: the trap.
        over: the one that its LWP has now, whose place it takes.

    Returns:
        Whether it is armed; False if the LWP has another one by now.
    """
    with _armory.lock:
        if trap.lwp.watch.trap is not over:
            return False
        if over is not None:
            _take_away(over)
        trap.lwp.watch.trap = trap
        _armory.armed += 1
        try:
            trap.lwp.slow_exit = True  # a step that ends without an event (a C callback) looks by itself
            if not _armory.escapes:
                _armory.escapes = True
                tool.set_events(BASE_EVENTS | _ESCAPES)
            for code in trap.codes:
                _, count = _armory.codes.get(id(code), (code, 0))
                _armory.codes[id(code)] = (code, count + 1)
                if count == 0:
                    tool.set_local_events(code, _E.INSTRUCTION)
        except BaseException:
            _take_away(trap)  # half armed, it would catch nothing
            raise
    return True


def disarm(trap: Trap) -> None:
    """Take a trap away, once.  Any thread."""
    with _armory.lock:
        if trap.lwp.watch.trap is trap:
            _take_away(trap)


def _take_away(trap: Trap) -> None:
    """The armory's lock is held."""
    trap.lwp.watch.trap = None
    _armory.armed -= 1
    for code in trap.codes:
        _, count = _armory.codes.get(id(code), (code, 0))
        if count > 1:
            _armory.codes[id(code)] = (code, count - 1)
        else:
            _armory.codes.pop(id(code), None)
            tool.set_local_events(code, 0)


def watching() -> bool:
    """Whether the events for all code are on."""
    return _armory.escapes


def relax() -> None:
    """Turn the events for all code off if no trap is armed.  The sampler does so when it has been calm for a while:
    each change makes the interpreter visit all code again."""
    if _armory.escapes and not _armory.armed:
        with _armory.lock:
            if not _armory.armed:
                _armory.escapes = False
                tool.set_events(BASE_EVENTS)


def reset() -> None:
    """Forget everything: the tool id is given back, or the process was forked."""
    for code, _ in _armory.codes.values():
        tool.set_local_events(code, 0)
    _armory.__init__()  # type: ignore[misc]


def _sprung(lwp: LWP | None, code: CodeType) -> None:
    """The thread of an LWP goes on.  A trap lets it be in this package's own code, and in what has interrupted that (a
    finalizer, a signal handler): the protocol may be half way, and what comes next is an event too."""
    trap = None if lwp is None else lwp.watch.trap
    if lwp is None or trap is None or lwp.region or own(code) or lwp.carrying.inside() or _armory.inside():
        return
    lwp.watch.reactions.trapped(lwp, trap, code)


def on_instruction(code: CodeType, offset: int) -> Any:
    """INSTRUCTION: armed code is executed, by whomever."""
    try:
        _sprung(current.get(os_ident()), code)
    except BaseException as exc:
        failed(exc)


def on_raised(code: CodeType, offset: int, exception: BaseException) -> Any:
    """RAISE: an exception is raised in any Python code, and nothing has handled it yet.

    That may be what has come up at the very beginning of one of our callbacks (a signal handler's exception, or
    RecursionError), before it could do anything: then the step is still without the loop.
    """
    try:
        lwp = current.get(os_ident())
        if lwp is None:
            return
        trap = lwp.watch.trap
        stranded = lwp.state in _AWAY and lwp.handle is not None and not lwp.region and not own(code)
        if stranded and (trap is None or trap.call is None):
            lwp.watch.reactions.stranded(lwp)
        elif trap is not None:
            _sprung(lwp, code)
    except BaseException as exc:
        failed(exc)


def on_escape(code: CodeType, offset: int) -> Any:
    """PY_START, PY_RESUME: any Python code goes on."""
    try:
        _sprung(current.get(os_ident()), code)
    except BaseException as exc:
        failed(exc)
