"""Standing: what the stack tells about the place where a step stands: may it be interrupted, does somebody debug it."""

from __future__ import annotations

import dis
import os
import sys
import threading
from collections.abc import Container
from types import CodeType, FrameType

from .calls import excluded

_SEND, _CACHE = dis.opmap["SEND"], dis.opmap["CACHE"]
_ANYIO = f"{os.sep}anyio{os.sep}"
_THREADING = threading.__file__  # it holds the lock of all threads there, which a new LWP needs
DEBUGGERS = ("bdb", "pydevd")
_PYDEVD = tuple(f"{os.sep}{folder}{os.sep}" for folder in ("pydevd", "_pydevd_bundle", "_pydevd_frame_eval"))


def interruptible(frame: FrameType | None, runners: Container[CodeType]) -> bool:
    """Whether code may be interrupted: not in the middle of asyncio's, anyio's or threading's, nor of what these have
    called.

    Args:
        frame: the innermost one of the step.
        runners: the code whose frames call the step.
    """
    while frame is not None and frame.f_code not in runners:
        code = frame.f_code
        ours = excluded(code) or _ANYIO in code.co_filename or code.co_filename == _THREADING
        if ours and not _awaits(frame):
            return False  # nothing else runs now, it thinks
        frame = frame.f_back
    return True


def _awaits(frame: FrameType) -> bool:
    """Whether a frame awaits what runs above it."""
    code, offset = frame.f_code.co_code, frame.f_lasti
    while code[offset] == _CACHE:  # where 3.12 is then
        offset -= 2
    return code[offset] == _SEND


def in_debugger(frame: FrameType | None, runners: Container[CodeType]) -> bool:
    """Whether a step has called a debugger, and stands in it.

    Args:
        frame: the innermost one of the step.
        runners: the code whose frames call the step.  A debugger that runs the whole program is below them.
    """
    files = [getattr(sys.modules.get(name), "__file__", None) for name in ("bdb", "pdb")]
    while frame is not None and frame.f_code not in runners:
        name = frame.f_code.co_filename
        if name in files or os.path.basename(name) == "pydevd.py" or any(folder in name for folder in _PYDEVD):
            return True
        frame = frame.f_back
    return False


FRAMES = 25
"""So many frames have to be left below the recursion limit where the loop leaves a step: the way back needs them."""


def reserve(frames: int) -> None:
    """See that so many frames are left on the calling thread.

    Raises:
        RecursionError: they are not.
    """
    # It says None if the stack is not as deep as that, and makes no frame object on the way.
    if sys._getframemodulename(sys.getrecursionlimit() - frames) is not None:
        raise RecursionError(f"maximum recursion depth exceeded: less than {frames} frames are left to leave the loop")


def are_left(frames: int, frame: FrameType | None) -> bool:
    """Whether so many frames are left on another thread, whose innermost one this is."""
    depth = 0
    while frame is not None:
        depth += 1
        frame = frame.f_back
    return depth + frames < sys.getrecursionlimit()
