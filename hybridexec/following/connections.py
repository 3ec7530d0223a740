"""Connections: those of sqlite3 that a carrier has made belong to the loop, and not to the carrier's thread.

By default sqlite3 lets nobody use a connection but the thread that has made it.  On asyncio that never shows, as all
steps are taken on one thread.  A loop that moves takes its connections along: once a step has called a method of one,
or of a cursor of it, it is not checked any more.  That is safe, since one LWP at a time runs the loop's code, and
SQLite itself lets threads share a connection if it is built to serialize them (``sqlite3.threadsafety``); if it is not,
nothing is done.

Rejected: to look for the connections by ``gc.get_objects()`` when the loop moves.  That takes hold of tuples that other
threads are just making, and CPython answers there with a ``SystemError``.

One that a step is in the middle of using, without the loop, is waited for before the next step uses it.  SQLite itself
would see to that; but CPython waits for SQLite's lock with the GIL in its hand here and there, and what has the lock
may need the GIL (a function of the program's that SQLite calls).

Whether a connection is checked, and which thread has made it, are fields of a structure of CPython's
(``platform/memory.py``).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sqlite3
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..platform import memory
from ..platform.threads import os_ident
from ..protocol.lwp import LWP, Bell

_INT = ctypes.sizeof(ctypes.c_int)
_WORD = ctypes.sizeof(ctypes.c_void_p)
SERIALIZED = 3


class _Fields(NamedTuple):
    """Where two fields of a connection are, in bytes from its beginning."""

    checked: int
    thread: int

    def is_checked(self, connection: sqlite3.Connection) -> ctypes.c_int:
        return ctypes.c_int.from_address(id(connection) + self.checked)

    def maker(self, connection: sqlite3.Connection) -> ctypes.c_ulong:
        return ctypes.c_ulong.from_address(id(connection) + self.thread)


@functools.cache
def fields() -> _Fields | None:
    """The fields; None where they are not found, or do not do what they are taken for."""
    if sqlite3.threadsafety != SERIALIZED:
        return None
    size = sqlite3.Connection.__basicsize__
    with (
        contextlib.closing(sqlite3.connect(":memory:")) as checked,
        contextlib.closing(sqlite3.connect(":memory:", check_same_thread=False)) as free,
    ):
        word = memory.find(id(checked), size // _WORD, os_ident())
        yes, no = ((ctypes.c_int * (size // _INT)).from_address(id(c)) for c in (checked, free))
        flags = [number for number in range(size // _INT) if (yes[number], no[number]) == (1, 0)]
        if word is None or len(flags) != 1:
            return None
        found = _Fields(flags[0] * _INT, word * _WORD)
        found.maker(checked).value ^= 1  # as if another thread had made it
        try:
            checked.execute("SELECT 1")
        except sqlite3.ProgrammingError:
            found.is_checked(checked).value = 0
        else:
            return None
        finally:
            found.maker(checked).value ^= 1
        return found


class Connections:
    """The connections of one loop."""

    def __init__(self) -> None:
        # The threads that carry the loop, or have done so.  Those that have ended are not forgotten: what they have
        # made may be used for the first time after that.  Another thread may get the identity of one, and is taken for
        # it; what asyncio would refuse then is safe all the same, as SQLite is serialized.
        self._makers: set[int] = set()

    def made_by(self, thread: int) -> None:
        """What a thread makes belongs to the loop."""
        self._makers.add(thread)

    def used(self, thing: Any) -> sqlite3.Connection | None:
        """A step calls a method of a connection, or of one of its cursors.  Returns the connection."""
        connection = of(thing)
        if connection is not None:
            self._share(connection)
        return connection

    def _share(self, connection: sqlite3.Connection) -> None:
        found = fields()
        if found is not None and found.maker(connection).value in self._makers:
            found.is_checked(connection).value = 0


def of(thing: Any) -> sqlite3.Connection | None:
    """The connection that something is, or is a cursor of."""
    if isinstance(thing, sqlite3.Cursor):
        try:
            return thing.connection
        except Exception:  # it was never initialized, and the call will say so
            return None
    return thing if isinstance(thing, sqlite3.Connection) else None


def in_use(lwps: Iterable[LWP], connection: sqlite3.Connection) -> Bell | None:
    """What rings when a call of a connection is over that a step of one of these LWPs is in; None if none is.

    The loop's mutex is held.
    """
    for lwp in lwps:
        call = lwp.watch.call
        while call is not None:
            if call.waiters is not None and of(call.argument) is connection:
                call.waiters.append(bell := Bell())
                return bell
            call = call.outer
    return None
