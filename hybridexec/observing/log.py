"""The log: what this package says to people, through the logger ``hybridexec``.

The protocol speaks while others wait for it, so saying something never fails: what a handler, a filter or a formatter
raises (a full disk) is printed to stderr once, where that can be, and goes no further.

**No value of the program is said**, in no record and in no exception of ours: a log is read by others than the
program's users, and a value may be a password or a megabyte.  :func:`told` is what may be said of one, and
:func:`raised` what may be said of an exception, whose text is a value, too.

**Nothing is said a thousand times**: what may go wrong at each call is a :class:`Trouble`.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import logging
import math
import sys
import types
from collections.abc import Callable, Hashable
from typing import Any

from ..platform.clock import monotonic
from ..platform.threads import on_main_thread

logger = logging.getLogger("hybridexec")

CAUSES = 8
"""How many causes of one trouble are said; those that come after them are counted."""

LISTED = 16
"""How many lines a record has at most that lists things; an exception, for each that has led to it."""

AGAIN = 60.0
"""Seconds without a trouble after which it is news again, and after which a summary may follow another."""

_SIZED = (str, bytes, bytearray, memoryview, list, tuple, dict, set, frozenset)
_NAMED = (types.FunctionType, types.BuiltinFunctionType)

_reported = False  # what a handler has raised was printed


def say(level: int, message: str, *args: object, exc: BaseException | None = None) -> None:
    """Log a message.  Any thread; also under the protocol's mutex, where no handler may wait for the loop.

    Args:
        level: one of ``logging``'s levels.
        message: a format; names, types and places only, and no values of the program.
        *args: what is put into it.
        exc: an exception that is told of, too, without its text.

    Raises:
        BaseException: on the main thread, what is no ``Exception``: a signal handler has raised it, as far as anybody
            can tell.
    """
    try:
        if exc is None:
            logger.log(level, message, *args, stacklevel=2)
        elif logger.isEnabledFor(level):
            logger.log(level, f"{message}: %s", *args, raised(exc), stacklevel=2)
    except BaseException as failure:
        if not isinstance(failure, Exception) and on_main_thread():
            raise
        _report(failure)


def _report(failure: Any) -> None:
    """Print what a handler has raised, once in the process."""
    global _reported
    with contextlib.suppress(Exception):
        if not _reported:
            _reported = True
            print(f"hybridexec: a handler of the log has raised: {raised(failure)}", file=sys.stderr)


class Trouble:
    """Something that may go wrong thousands of times: each cause is said once, the others are counted.

    Whoever knows that the trouble is over says so, and the log gets the count.  A trouble that comes and goes is one
    trouble: its causes are news only after :data:`AGAIN` seconds without it, and summaries are as far apart.  There is
    no thread that watches, and no more memory than :data:`CAUSES` causes take.  Any thread may call any method.

    Args:
        summary: the format of the summary; it gets the count.
    """

    def __init__(self, summary: str) -> None:
        self._summary = summary
        # One that knows its owner: a finalizer, or a signal handler, may run on a thread that is inside of it.
        self._lock = _thread.RLock()
        self._said: set[Hashable] = set()
        self._counted = 0
        self._last = self._summary_from = -math.inf

    def is_news(self, cause: Hashable) -> bool:
        """Count something that went wrong, and tell whether it is to be said.

        Args:
            cause: what it comes from, or where: a type, a site.
        """
        with self._lock:
            before, self._last = self._last, monotonic()
            if self._last - before >= AGAIN:
                self._said.clear()
            if cause in self._said or len(self._said) >= CAUSES:
                self._counted += 1
                return False
            self._said.add(cause)
            return True

    def is_over(self, *, for_good: bool = False) -> None:
        """It goes right again; say how often it went wrong without a word, unless that was said a moment ago.

        Args:
            for_good: whether there is nobody left who could have the trouble.
        """
        if not self._counted:
            return
        with self._lock:
            now = monotonic()
            if not self._counted or (now < self._summary_from and not for_good):
                return
            count, self._counted = self._counted, 0
            self._summary_from = now + AGAIN
        say(logging.WARNING, self._summary, count)


def told(value: object) -> str:
    """What a log or a message may say of a value: its type, with the length of what is built in, or the name of a
    class or a function.  No code of the program's is run for it."""
    kind = type(value)
    if value is None:
        return "None"
    if issubclass(kind, type):
        return f"<class {_qualname(value)}>"
    if kind in _NAMED and isinstance(value, _NAMED):
        return f"<{kind.__name__} {value.__qualname__}>"
    if kind in _SIZED and isinstance(value, _SIZED):
        return f"<{kind.__name__} of length {len(value)}>"
    return f"<{_qualname(kind)}>"


_qualname: Callable[[Any], str] = type.__dict__["__qualname__"].__get__
"""The name of a class; a metaclass may have another idea of it."""


def raised(exc: BaseException) -> str:
    """What a log may say of an exception: a traceback of types and places, without texts and lines of source."""
    parts: list[str] = []
    known: set[int] = set()
    one: BaseException | None = exc
    while one is not None and id(one) not in known and len(parts) < CAUSES:
        known.add(id(one))
        number = errno.errorcode.get(one.errno or 0) if isinstance(one, OSError) else None
        places: list[str] = []
        traceback = one.__traceback__
        while traceback is not None:
            code = traceback.tb_frame.f_code
            places.append(f"\n  {code.co_filename}:{traceback.tb_lineno}:{code.co_qualname}")
            traceback = traceback.tb_next
        parts.append("".join([_qualname(type(one)), f" ({number})" if number else "", *places[-LISTED:]]))
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return "\nafter ".join(parts)
