"""Program: whose line a block is.

What blocks is often a line of the standard library's (``socket.py``), the same for all that a program does.  Whoever
looks for it wants the program's line: the innermost frame that is neither in the standard library, nor an installed
package's, nor this package's.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import os
import sysconfig
from collections.abc import Container
from types import FrameType

from ..platform.own import DIRECTORY
from .upcalls import CallSite, Origin

_ASYNCIO = os.path.join(os.path.dirname(asyncio.__file__), "")
_LIBRARY = tuple(
    {os.path.join(path, "") for name in ("stdlib", "platstdlib") if (path := sysconfig.get_path(name))}
    | {os.path.join(os.path.dirname(os.__file__), ""), "<frozen "}
)
_INSTALLED = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))

GENERATED = "<hybridexec "
"""What the names of code begin with that is ours and plays a program's."""


class Owner(enum.Enum):
    """Whose a file is."""

    PROGRAM = enum.auto()
    LIBRARY = enum.auto()
    """The standard library's, or an installed package's."""
    ASYNCIO = enum.auto()
    OURS = enum.auto()


_PROGRAM, _LIBRARYS, _OURS = Owner.PROGRAM, Owner.LIBRARY, Owner.OURS  # an enum's members are slow to look up


@functools.lru_cache(maxsize=4096)
def owner(file: str) -> Owner:
    """Whose a file is, by its name."""
    if file.startswith(DIRECTORY):
        return Owner.OURS
    if file.startswith(_ASYNCIO):
        return Owner.ASYNCIO
    if file.startswith(_LIBRARY) or any(folder in file for folder in _INSTALLED):
        return Owner.LIBRARY
    return Owner.PROGRAM


def origin(frame: FrameType | None, bottoms: Container[int]) -> Origin | None:
    """Where the program has called what runs in a frame.

    Args:
        frame: the innermost one of the step; frames of this package above it do not matter.
        bottoms: the identities of the code whose frames call steps.

    Returns:
        The innermost frame of the program's; if there is none, the outermost that is neither asyncio's nor this
        package's; None if there is none of these either.
    """
    found: tuple[FrameType, FrameType | None] | None = None
    inner: FrameType | None = None
    while frame is not None:
        code = frame.f_code
        if id(code) in bottoms:
            break
        whose = owner(code.co_filename)
        if whose is _PROGRAM:
            return _origin(frame, inner)
        if whose is _LIBRARYS:
            found = frame, inner
        inner = None if whose is _OURS else frame
        frame = frame.f_back
    return None if found is None else _origin(*found)


def _origin(frame: FrameType, inner: FrameType | None) -> Origin:
    code = frame.f_code
    via = None if inner is None else f"{inner.f_globals.get('__name__', '?')}.{inner.f_code.co_qualname}"
    return Origin(CallSite(code.co_filename, frame.f_lineno or 0, code.co_qualname), via)


def explained(exc: BaseException) -> str:
    """What may be said of an exception to people: its type, with its text if the interpreter or a library raised it.

    The text of one that has come by the program's code may be a value of the program's: of that, the place is told.
    """
    site, traceback = None, exc.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if owner(code.co_filename) is Owner.PROGRAM and not code.co_filename.startswith(GENERATED):
            site = CallSite(code.co_filename, traceback.tb_lineno, code.co_qualname)
        traceback = traceback.tb_next
    name = type(exc).__name__
    return f"{name} at {site}" if site is not None else ": ".join(filter(None, (name, str(exc))))
