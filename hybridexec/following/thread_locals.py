"""Thread-locals belong to the loop: an LWP sees the ``threading.local`` values of its loop's home.

On asyncio all coroutines of a loop share one thread's values: a lock's token, a scoped session, a registry of
connections.  When the loop moves they must still find them.  What stands for "this thread" in every ``threading.local``
is a word or two of the thread's state: since 3.13 a key and a sentinel, before that the state's dictionary.  A spare
*wears* its home's from the first time that it carries the loop, and has its own again before it ends.  That costs a few
microseconds for each LWP, and nothing for a handoff.

The words are found by their values (``platform/memory.py``), and the first loop of the process tries it out with a
thread that ends at once.  Where it does not hold the log says so, and values stay with their threads.

**On 3.12** the dictionary holds two more things, which are the thread's and not the loop's:

* *asyncio's running loop*.  The LWPs of a loop all have the same one, so they may share it.  But there is none in a
  ``blocking()`` region, and while a closed loop drains its home may run another one.  There the LWP *parts*: it wears a
  copy.  The values that exist are the same objects in both; what is new in the copy is brought over when it *joins*.
* *ctypes' errno*.  A step that is without the loop keeps its own.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import operator
import sys
import threading
from typing import Any, NamedTuple

from ..observing.log import say
from ..platform import memory
from ..platform.threads import os_ident
from . import identity

IN_DICTIONARY = sys.version_info < (3, 13)
"""Whether the values are in the dictionary of the thread's state."""

_WORDS = 120
"""How many words of a thread's state are looked at.  It is longer on all versions."""

_RUNNING_LOOP = "__asyncio_running_event_loop__"
_ERRNO = "ctypes.error_object"


class Values(NamedTuple):
    """What stands for a thread.

    Attributes:
        ident: its identity.
        objects: what the words refer to.
    """

    ident: int
    objects: tuple[Any, ...]

    def are(self, others: Values) -> bool:
        """Whether they are the same ones."""
        return self.ident == others.ident and all(map(operator.is_, self.objects, others.objects))


_probe = threading.local()

_api: Any = ctypes.pythonapi
_api.PyThreadState_GetDict.restype = ctypes.c_void_p
_api.Py_IncRef.argtypes = _api.Py_DecRef.argtypes = [ctypes.c_void_p]


class _Words:
    """Which words of a thread's state they are."""

    def __init__(self) -> None:
        self._places: tuple[int, ...] | None = None  # None: not looked for yet; empty: there are none

    def usable(self) -> bool:
        """Whether values can be shared here.  The first time it is tried out."""
        if self._places is None:
            try:
                self._places = self._find()
                if self._places and not self._holds():
                    self._places = ()
            except RuntimeError:  # the system has no thread to give, so there are no spares either
                self._places = None
                return False
            if not self._places:
                say(
                    logging.WARNING,
                    "this interpreter's threading.local values cannot be shared: they stay with each thread",
                )
        return bool(self._places)

    def get(self) -> Values:
        """The calling thread's."""
        _probe.thread = os_ident()  # without any value there would be nothing to refer to
        state = self._state()
        return Values(identity.get_ident(), tuple(memory.thing(state[place]) for place in self._places or ()))

    def put(self, values: Values) -> None:
        """Set the calling thread's."""
        state = self._state()
        for place, value in zip(self._places or (), values.objects, strict=True):
            before = state[place]
            _api.Py_IncRef(id(value))
            state[place] = id(value)
            _api.Py_DecRef(before)

    @staticmethod
    def _state() -> ctypes.Array[ctypes.c_void_p]:
        return memory.words(memory.thread_state(), _WORDS)

    @staticmethod
    def _find() -> tuple[int, ...]:
        if sys.implementation.name != "cpython":
            return ()
        state = memory.thread_state()
        if IN_DICTIONARY:
            place = memory.find(state, _WORDS, _api.PyThreadState_GetDict())
            return () if place is None else (place,)
        local = threading.local()
        local.value = None
        dictionaries = [thing for thing in gc.get_referents(local) if isinstance(thing, dict)]
        keys = [key for known in dictionaries for key in known if type(key).__name__ == "_localdummy"]
        place = memory.find(state, _WORDS, id(keys[0])) if len(keys) == 1 else None
        return () if place is None else (place, place + 1)  # the sentinel is behind the key

    def _holds(self) -> bool:
        seen = []
        values = self.get()

        def wear() -> None:
            wardrobe = Wardrobe()
            try:
                wardrobe.wear(values)
                seen.append(_probe.thread)
            finally:
                wardrobe.take_off()
            seen.append(_probe.thread)

        thread = threading.Thread(target=wear, name="hybridexec-thread-locals", daemon=True)
        thread.start()
        thread.join()
        return seen == [os_ident(), thread.ident]


_words = _Words()


def of_this_thread() -> Values | None:
    """The calling thread's values; None where they cannot be shared."""
    return _words.get() if _words.usable() else None


class Wardrobe:
    """Whose values an LWP sees.  Only its own thread changes that.

    Attributes:
        worn: those of its loop's home; None: its own.
    """

    __slots__ = ("_errno", "_own", "_shared", "worn")

    def __init__(self) -> None:
        self.worn: Values | None = None
        self._own: Values | None = None  # where it wears others
        self._shared: Values | None = None  # where it has parted from them
        self._errno: Any = None

    def wear(self, values: Values | None) -> None:
        """Wear the values of a home."""
        self.take_off()
        if values is not None:
            self._own = _words.get()
            self.worn = values
            _words.put(values)
            identity.show(values.ident)

    def take_off(self) -> None:
        """Have the thread's own values again."""
        identity.hide()
        if self._own is not None:
            _words.put(self._own)
            self._own = self.worn = None

    # ---------------------------------------------------------------- before 3.13

    def part(self) -> None:
        """Wear a copy, without what is the thread's."""
        if _words.usable():
            shared = self._shared = _words.get()
            known = {key: value for key, value in shared.objects[0].items() if key not in (_RUNNING_LOOP, _ERRNO)}
            _words.put(Values(shared.ident, (known,)))

    def join(self) -> None:
        """Wear again what it has parted from, if it has."""
        shared, self._shared = self._shared, None
        if shared is not None:
            for key, value in _words.get().objects[0].items():
                if key not in (_RUNNING_LOOP, _ERRNO):
                    shared.objects[0].setdefault(key, value)
            _words.put(shared)

    def left(self, values: Values | None) -> None:
        """The LWP's step is without the loop.  Any thread, under the protocol's mutex."""
        if values is not None:
            self._errno = values.objects[0].pop(_ERRNO, None)

    def returned(self, values: Values | None) -> None:
        """The LWP's step has the loop again."""
        errno, self._errno = self._errno, None
        if values is not None:
            values.objects[0].pop(_ERRNO, None)
            if errno is not None:
                values.objects[0][_ERRNO] = errno
