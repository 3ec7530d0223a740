"""The callbacks of declared calls, whose plain case is compiled (``_core/calls.c``)."""

from __future__ import annotations

import functools
import threading

from .._core import compiled
from ..observing.upcalls import Detection, UpcallKind
from ..protocol.lwp import IN_POLL, LwpState, Region, current
from . import calls
from .catalogue import LEAST_SLEEP, Verdict, catalogue, sleep_blocks
from .failing import failed
from .stack import FRAMES, reserve

CALLS = 4
"""So many calls of Python functions lie between the program's and ``reserve``, where the core does not make them."""

if compiled is None:
    on_call, on_return = calls.on_call, calls.on_return
else:
    compiled.calls_know(
        {
            "current": current,
            "sites": calls.sites,
            "entries": catalogue.entries,
            "call_type": calls.Call,
            "declared": Detection.DECLARED,
            "own_region": Region.OWN,
            "never": Verdict.NEVER,
            "sure": Verdict.SURE,
            "blocked": LwpState.BLOCKED,
            "running": LwpState.RUNNING,
            "kind_blocked": UpcallKind.BLOCKED,
            "kind_unblocked": UpcallKind.UNBLOCKED,
            "wait_code": threading.Condition.wait.__code__,
            "enter_code": threading.Condition.__enter__.__code__,
            "on_call": calls.on_call,
            "on_return": calls.on_return,
            "failed": failed,
            "reserve": functools.partial(reserve, FRAMES + CALLS),
            "frames": FRAMES + CALLS + 1,  # its own is one of them
            "judge_of_sleep": sleep_blocks,
            "least_sleep": LEAST_SLEEP,
            "in_poll": IN_POLL,
        }
    )
    on_call, on_return = compiled.on_call, compiled.on_return
