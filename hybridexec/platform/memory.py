"""Memory: fields of CPython's structures that no function of Python's reaches.

A few things that belong to an OS thread are a word in a structure of CPython's: whose ``threading.local`` values a
thread sees, which thread owns an ``RLock``, which one made a sqlite3 connection.  A loop that moves has to set them.
Nothing is assumed of layouts: a field is found by looking for a value that is known to be in it, and whoever uses one
tries it out first and does without where it does not hold (another implementation, a future version).
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any


def words(address: int, count: int) -> ctypes.Array[ctypes.c_void_p]:
    """The words of a structure, to read and to write.  The caller sees to it that the structure is that long."""
    return _array(count).from_address(address)


@functools.cache  # ctypes' own holds no type, and a type that is made anew is work for the garbage collector
def _array(count: int) -> type[ctypes.Array[ctypes.c_void_p]]:
    return ctypes.c_void_p * count


def find(address: int, count: int, value: int) -> int | None:
    """Where a value stands among the words of a structure; None unless it does so exactly once."""
    found = [number for number, word in enumerate(words(address, count)) if word == value]
    return found[0] if len(found) == 1 else None


def thread_state() -> int:
    """The address of the interpreter's structure for the calling thread."""
    return int(_thread_state())


def thing(address: int | None) -> Any:
    """The object at an address; None for no address.  The caller sees to it that there is one."""
    return None if address is None else ctypes.cast(address, ctypes.py_object).value


GIL = bool(getattr(sys, "_is_gil_enabled", lambda: True)())

frame_of = ctypes.pythonapi.PyThreadState_GetFrame
"""The innermost frame of a thread, by the address of its structure, which must be there.  ValueError: there is none."""
frame_of.restype = ctypes.py_object
frame_of.argtypes = (ctypes.c_void_p,)

_thread_state = ctypes.pythonapi.PyThreadState_Get
_thread_state.restype = ctypes.c_void_p
_thread_state.argtypes = ()
