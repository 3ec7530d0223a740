"""The detector: what notices that a step blocks.  It knows LWPs and calls, and nothing of a loop's inside.

One detector serves all loops of the process.  Its tiers: ``calls.py`` (declared), ``sampler.py`` with ``trap.py``
(discovered and preempted).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container
from types import CodeType, FrameType
from typing import Any

from ..platform.threads import os_ident
from ..protocol.lwp import current
from . import calls, compiled_calls, tool, trap, yields
from .catalogue import catalogue
from .sampler import sampler

__all__ = ["attach", "catalogue", "detach", "sampler", "stands_in_callback", "tool"]


def attach() -> None:
    """One more loop needs the detector.

    Raises:
        DetectorUnavailableError: there is no ``sys.monitoring``, or no tool id is free.
    """
    catalogue.resolve()
    tool.acquire(_callbacks, trap.BASE_EVENTS)


def detach() -> None:
    """One loop less needs it."""
    tool.release(trap.reset)


def _callbacks() -> dict[int, Callable[..., Any]]:
    events = sys.monitoring.events
    return {
        events.CALL: compiled_calls.on_call,
        events.C_RETURN: compiled_calls.on_return,
        events.C_RAISE: calls.on_raise,
        events.INSTRUCTION: trap.on_instruction,
        events.RAISE: trap.on_raised,
        events.PY_START: trap.on_escape,
        events.PY_RESUME: trap.on_escape,
        events.PY_YIELD: yields.on_yield,
    }


_CODES = {calls.on_call.__code__, calls.on_return.__code__}
_CODES |= {callback.__code__ for callback in _callbacks().values() if hasattr(callback, "__code__")}


def stands_in_callback(frame: FrameType | None, until: Container[CodeType]) -> bool:
    """Whether a callback of the detector has called a frame.  The interpreter has no events for what it calls.

    Args:
        frame: the innermost frame.
        until: the code whose frames call the program: what is above them does not matter.
    """
    lwp = current.get(os_ident())
    if lwp is not None and lwp.callbacks:
        return True  # it is compiled, and has no frame
    while frame is not None and frame.f_code not in until:
        if frame.f_code in _CODES:
            return True
        frame = frame.f_back
    return False
