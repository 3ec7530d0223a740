"""Contexts: code leaves the context that it runs in, and enters it again.

``Context.run`` enters a context around a call, and nothing in ``contextvars`` leaves it in the middle of one.  The
public C API does: ``PyContext_Exit`` and ``PyContext_Enter``.
"""

from __future__ import annotations

import contextvars
import ctypes

_exit, _enter = ctypes.pythonapi.PyContext_Exit, ctypes.pythonapi.PyContext_Enter
for _function in _exit, _enter:
    _function.argtypes = [ctypes.py_object]
    _function.restype = ctypes.c_int


def leave(context: contextvars.Context) -> bool:
    """Leave a context, so that other threads can enter it.

    Returns:
        Whether it was the innermost one of the calling thread; if not, nothing has changed.
    """
    try:
        _exit(context)
    except RuntimeError:
        return False
    return True


def enter(context: contextvars.Context) -> bool:
    """Enter a context again.

    Returns:
        Whether it could be entered; if not, somebody else is in it.
    """
    try:
        _enter(context)
    except RuntimeError:
        return False
    return True
