"""Libraries that keep something for "this thread" while a call lasts, each by name.

The coroutines of a loop share ``threading.local`` values (``thread_locals.py``) and an identity (``identity.py``), as
on asyncio.  But there a call is over before another coroutine goes on; here that one finds the value of a call that is
under way.  What is the call's own then cannot be told from what is the loop's, so this is a list, and short.

* **Proxies of multiprocessing's managers** have a connection for each thread, in a ``threading.local``.  While one
  coroutine is blocked in ``queue.get()``, another's request on the same connection would not be looked at, and its
  answer might go to the wrong one.  So a step that calls takes the connection out of the local; whoever calls meanwhile
  finds none, and makes another.
* **loguru's handlers** note in a ``threading.local`` that this thread is inside, and refuse it a second time: a record
  of another coroutine was lost while a sink blocked.  The note is the OS thread's now.
* **Django's connections** ask ``_thread`` for the identity of the thread that they belong to.  They get the loop's.
"""

from __future__ import annotations

import _thread
import functools
import sys
import types
from typing import Any

from ..platform.patches import Patch
from ..platform.threads import os_ident
from ..protocol.lwp import current
from .identity import get_ident

_DJANGO = "django.db.backends.base.base"


def _proxies(kind: Any) -> None:
    call = kind._callmethod

    @functools.wraps(call)
    def _callmethod(self: Any, *args: Any, **kwds: Any) -> Any:
        if os_ident() not in current:
            return call(self, *args, **kwds)
        local = vars(self._tls)
        found = local.pop("connection", None)
        own = types.SimpleNamespace() if found is None else types.SimpleNamespace(connection=found)
        caller = object.__new__(type(self))
        vars(caller).update(vars(self), _tls=own)
        try:
            return call(caller, *args, **kwds)
        finally:
            connection = getattr(own, "connection", None)
            if connection is not None and local.setdefault("connection", connection) is not connection:
                connection.close()

    Patch(kind, "_callmethod", _callmethod)


class _Marks:
    """As a ``threading.local``, but each OS thread has its own values, whatever loop it carries."""

    def __init__(self) -> None:
        vars(self)["_values"] = {}

    def __getattr__(self, name: str) -> Any:
        try:
            return vars(self)["_values"][os_ident(), name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        vars(self)["_values"][os_ident(), name] = value


def _loguru(kind: Any) -> None:
    if "_protected_lock" not in vars(kind):
        return  # another version, which may do it otherwise

    def get(handler: Any) -> Any:
        return vars(handler).setdefault("_marks_of_threads", _Marks())

    def put(handler: Any, value: Any) -> None:
        """What the handler makes, or that a copy is to have none."""
        vars(handler).pop("_marks_of_threads", None)

    kind._lock_acquired = property(get, put)  # an attribute of its instances: the class has none to put back


def _django(kind: Any) -> None:
    module: Any = sys.modules[_DJANGO]
    if getattr(module, "_thread", None) is _thread:
        Patch(module, "_thread", types.SimpleNamespace(**{**vars(_thread), "get_ident": get_ident}))


WHEN_IMPORTED = {
    "multiprocessing.managers.BaseProxy": _proxies,
    "loguru._handler.Handler": _loguru,
    f"{_DJANGO}.BaseDatabaseWrapper": _django,
}
"""What to call with each, as soon as it is imported, which this package does not do."""
