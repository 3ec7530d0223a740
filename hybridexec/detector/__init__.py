"""The detector: what notices that a step blocks.  It knows LWPs and calls, and nothing of a loop's inside.

One detector serves all loops of the process.  Its tiers: ``calls.py`` (declared), ``sampler.py`` with ``trap.py``
(discovered and preempted).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from . import calls, tool, trap, yields
from .catalogue import catalogue
from .sampler import sampler

__all__ = ["attach", "catalogue", "detach", "sampler", "tool"]


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
        events.CALL: calls.on_call,
        events.C_RETURN: calls.on_return,
        events.C_RAISE: calls.on_raise,
        events.INSTRUCTION: trap.on_instruction,
        events.RAISE: trap.on_raised,
        events.PY_START: trap.on_escape,
        events.PY_RESUME: trap.on_escape,
        events.PY_YIELD: yields.on_yield,
    }
