"""Placing: an LWP that is woken gets the processor on which its waker is about to sleep.

Only one thread can run Python code at a time, but Linux puts a thread that is woken on a processor that is idle: on
another one than its waker's.  There all that the loop's code touches has to be fetched anew, and this for each handoff:
it costs more than the handoff itself (``docs/performance.md``).  So the waker, if it is about to sleep itself, first
allows the sleeper its own processor alone, and the sleeper takes its former processors back as soon as it is awake.  A
spare whose call is sure to do no more than wait (a sleep, a lock, an empty socket) stays on its processor in the same
way, or the system would wake it elsewhere, too.  Nobody sees that but the protocol: no step runs in between.

Not done where the waker's processor is not about to be free: it computes (in C, without the interpreter's lock), or is
no LWP.  Nor for good: a blocking call may compute, children inherit what a thread may use, and the system knows more of
the machine than we do.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .lwp import LWP

_SIZE = 128
"""Bytes of a set of processors, as glibc's: 1,024 of them."""

_library: Any = ctypes.PyDLL(None) if sys.platform == "linux" and (os.cpu_count() or 1) > 1 else None
"""Keeps the interpreter's lock: each of these calls is shorter than a hand-over of that."""

CAN = all(hasattr(_library, name) for name in ("sched_getcpu", "sched_getaffinity", "sched_setaffinity"))
"""Whether the system lets us."""

if CAN:
    _processor = _library.sched_getcpu
    _get, _set = _library.sched_getaffinity, _library.sched_setaffinity
    _get.argtypes = _set.argtypes = (ctypes.c_int, ctypes.c_size_t, ctypes.c_char_p)

_alone: dict[int, bytes] = {}


def _only(processor: int) -> bytes:
    """The set of one processor."""
    found = _alone.get(processor)
    if found is None:
        found = _alone[processor] = (1 << processor).to_bytes(_SIZE, sys.byteorder)
    return found


def near(lwp: LWP) -> None:
    """Have an LWP that sleeps, or is about to, wake on the calling thread's processor, if it may.  Mutex held."""
    processor = _processor()
    allowed = _allowed(lwp.native)
    if processor < 0 or allowed is None:
        return
    former, placed = lwp.processors or (allowed, allowed)
    only = _only(processor)
    if (
        former[processor // 8] & (1 << processor % 8)
        and allowed == placed != only
        and _set(lwp.native, _SIZE, only) == 0
    ):
        lwp.processors = former, only


def anywhere(lwp: LWP) -> None:
    """The calling thread, an LWP, is awake: it takes back what it may use, unless somebody has set that meanwhile.

    Mutex held.
    """
    assert lwp.processors is not None
    (former, placed), lwp.processors = lwp.processors, None
    if _allowed(0) == placed:
        _set(0, _SIZE, former)


def _allowed(thread: int) -> bytes | None:
    allowed = ctypes.create_string_buffer(_SIZE)
    return allowed.raw if _get(thread, _SIZE, allowed) == 0 else None
