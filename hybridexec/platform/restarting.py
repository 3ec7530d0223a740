"""Restarting: whether the system makes a call again that a signal has ended (``signal.siginterrupt``).

Python can say that, and not ask; and who sets a handler anew takes it back.  So the system is asked: ``sigaction`` with
no new action changes nothing.  Where the layout of its answer is not known, a call counts as ended.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable
from typing import Any

_RESTART = 0x10000000
_FLAGS = slice(ctypes.sizeof(ctypes.c_void_p) + 128, ctypes.sizeof(ctypes.c_void_p) + 132)
"""Behind the handler and the mask, in glibc's and musl's ``struct sigaction``; where they are elsewhere, nothing is."""

_Action = ctypes.c_char * 512  # one type: each of them is a cycle, and would be garbage
_sigaction: Any = getattr(ctypes.PyDLL(None), "sigaction", None) if sys.platform == "linux" else None


def restarts(signum: int) -> bool:
    """Whether a call that this signal ends is made again by the system, if it is of a kind that can be."""
    if _sigaction is None:
        return False
    action = _Action()
    return _sigaction(signum, None, action) == 0 and bool(int.from_bytes(action.raw[_FLAGS], sys.byteorder) & _RESTART)


def keeping(set_handler: Callable[[int, Any], object], signum: int, handler: Any) -> None:
    """Set a handler by a function, and leave what ``signal.siginterrupt`` has said of its signal."""
    restart = restarts(signum)
    set_handler(signum, handler)
    if restart:
        signal.siginterrupt(signum, False)
