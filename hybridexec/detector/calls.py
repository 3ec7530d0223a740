"""The first tier: declared calls, exact to the microsecond.

A CALL event comes before each call, a C_RETURN or C_RAISE event after it if the callee is implemented in C.  A call
site whose callee is not in the catalogue answers ``DISABLE`` the first time and costs nothing from then on.  A site
whose callee was in the catalogue once stays enabled for ever, or the end of a call that has begun might go unseen.

What a site's last call did is remembered: one whose outcome cannot be told beforehand is taken for sure after a slow
call, and only marked after a fast one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dis
import functools
import linecache
import os
import selectors
import sys
import threading
import tokenize
import weakref
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any

from .._core.fields import CallFields
from ..following.rlocks import noticed_in_region
from ..observing.upcalls import CallSite, Detection, Origin
from ..platform.clock import monotonic
from ..platform.own import DIRECTORY
from ..platform.threads import os_ident
from ..protocol.lwp import Bell, Region, current
from . import catalogue
from .catalogue import Binds, Verdict
from .failing import failed

MANY = sys.maxsize
_UNPACKS = dis.opmap["CALL_FUNCTION_EX"]

DISABLE = sys.monitoring.DISABLE

_ASYNCIO = os.path.dirname(asyncio.__file__) + os.sep
_SOURCES = linecache.__file__, tokenize.__file__  # read in the middle of asyncio's code, in debug mode
_CALLING = os.path.join(DIRECTORY, "executor", "calling.py")  # where a program's callables are called
_EXCLUDED = _ASYNCIO, DIRECTORY, *_SOURCES
_SELECTORS = selectors.__file__  # the loop itself polls there; a program's own polls there are left to the sampler
_WAIT = threading.Condition.wait.__code__
_ENTER = threading.Condition.__enter__.__code__
_FUTURES = concurrent.futures.Future.__init__.__code__.co_filename
_ENTER_CONTEXT = contextlib.ExitStack.enter_context.__code__
_SSL_OBJECT = "SSLObject."  # TLS in memory, which asyncio does: never blocks


class Site:
    """A place in the code where a call stands.  It does not keep the code alive."""

    __slots__ = ("code", "count", "learned", "offset", "slow", "where")

    def __init__(self, code: CodeType, offset: int, *, learned: bool = False) -> None:
        self.code = weakref.ref(code)
        self.offset = offset
        # How many arguments the call has, self not counted; where they are unpacked nobody knows.
        self.count = MANY if code.co_code[offset] == _UNPACKS else code.co_code[offset + 1]
        self.learned = learned  # found by the sampler
        self.slow = learned  # whether the last call lasted for the threshold
        self.where: CallSite | None = None

    def describe(self) -> CallSite:
        """The site, for people.  The caller has its code: in a frame, or in a ``Call``."""
        if self.where is None:
            code = self.code()
            assert code is not None
            lines = [line for start, end, line in code.co_lines() if start <= self.offset < end and line]
            self.where = CallSite(code.co_filename, lines[0] if lines else code.co_firstlineno, code.co_qualname)
        return self.where


class Call(CallFields):
    """A call that blocks, or may block, and what is known about it."""

    is_plain: bool
    """Whether the compiled core has begun it, and ends it."""
    reported: bool
    """Whether an upcall BLOCKED was emitted."""
    outer: Call | None
    """The call whose C code has called back into Python."""
    is_brief = False
    """Whether it waits for what is always on its way: the loop leaves it only when it has lasted for the threshold."""
    may_call_back = False
    """Whether it may call back into Python: nobody has declared it, or it is known to."""
    binds: Binds | None = None
    """What it ties to the thread: there may be something to see to when it is over."""
    waiters: list[Bell] | None = None
    """Of a sqlite3 connection: who waits for its end."""
    loop_stays = False
    """Whether the loop stands still meanwhile: nothing more can be done about it."""
    task: str | None = None
    in_poll: bool | None = None
    """Whether the engine's poll has called what makes it, once that was told."""
    origin: Origin | None = None
    """Where the program has called what makes it, once that was told."""

    def __init__(self, site: Site, name: str | None, argument: Any, detection: Detection) -> None:
        # _core/calls.c does the same.
        self.site = site
        self.code = site.code()
        self.name = name
        self.argument = argument
        self.detection = detection
        self.began = monotonic()
        self.outer = None


sites: dict[tuple[int, int], Site] = {}
"""What is known of call sites, by the identity of their code and their offset.  What is known goes with the code."""


def excluded(code: CodeType) -> bool:
    """Whether code is asyncio's or this package's own, which never blocks a step."""
    name = code.co_filename
    return (name.startswith(_EXCLUDED) and name != _CALLING) or (
        code.co_qualname.startswith(_SSL_OBJECT) and name.endswith("ssl.py")
    )


def site_of(code: CodeType, offset: int) -> Site:
    """The site of an instruction, the same object each time."""
    key = id(code), offset
    site = sites.get(key)
    if site is None:
        site = Site(code, offset)
        # The last thing that happens to the code, before another one can have its identity.  Nothing of it is Python
        # code: it may happen anywhere.
        site.code = weakref.ref(code, functools.partial(sites.pop, key))
        site = sites.setdefault(key, site)
    return site


def learn(code: CodeType, offset: int) -> Site:
    """Declare a site that the sampler has discovered: its calls are events from now on."""
    site = site_of(code, offset)
    site.slow = True
    if not site.learned:
        site.learned = True
        sys.monitoring.restart_events()
    return site


def forget() -> None:
    """Forget every site."""
    sites.clear()


def on_call(code: CodeType, offset: int, callable: Any, argument: Any) -> Any:
    """CALL: a call is about to begin."""
    try:
        site = sites.get((id(code), offset))
        known = catalogue.catalogue
        entry = known.get(callable)
        if entry is None:
            seen, owner = catalogue.see_through(callable, argument)
            if seen is not callable:
                callable, argument = seen, owner
                entry = known.get(callable)
        if site is None:
            if excluded(code) or code.co_filename == _SELECTORS:
                return DISABLE
            if entry is None:
                if code is _ENTER_CONTEXT or _lets_go(callable):
                    return None  # the next callee here may be an RLock's
                known.resolve()
                entry = known.get(callable)
                if entry is None:
                    return DISABLE
            site = site_of(code, offset)
        lwp = current.get(os_ident())
        if lwp is None or lwp.handle is None:
            return None  # not a step's call
        if lwp.region:
            if entry is not None and entry.binds is Binds.RLOCK and lwp.region is not Region.OWN:
                noticed_in_region(lwp, argument)  # it may be held beyond the region
            return None
        if lwp.carrying.inside():
            return None  # a finalizer or a signal handler in the middle of the protocol
        if entry is None:
            if not site.learned or not catalogue.is_c(callable):
                return None
            verdict = Verdict.MAYBE
            name = None
        else:
            if entry.binds is not None:
                if entry.binds is not Binds.ATTRIBUTES:
                    lwp.watch.reactions.binds(lwp, entry.binds, argument, site)
                if entry.binds is Binds.GREENLET:
                    return None
            try:
                verdict = entry.will_block(argument, site.count)
            except Exception:  # it is not what the callable takes, which will say so itself
                verdict = Verdict.MAYBE
            if verdict is Verdict.NEVER:
                return None
            name = entry.name
        call = Call(site, name or catalogue.name_of(callable), argument, Detection.DECLARED)
        if entry is None:
            call.may_call_back = True
        else:
            call.may_call_back, call.binds = entry.calls_back, entry.binds
            if entry.binds is Binds.SQLITE:
                call.waiters = []
        if verdict is Verdict.COMPUTES:
            call.loop_stays, call.outer, lwp.watch.call = True, lwp.watch.call, call  # the sampler leaves it alone
            return None
        if code is _WAIT:
            call.is_brief = _begins_thread(sys._getframe(1))
        elif code is _ENTER:
            call.is_brief = _looks_at_future(sys._getframe(1))
        lwp.watch.reactions.call(lwp, call, verdict is Verdict.SURE and not call.is_brief)
        return None
    except BaseException as exc:
        return failed(exc)


def _lets_go(callable: Any) -> bool:
    """Whether a callable is what a ``Condition`` calls of a lock: where it does, that may be an RLock another time."""
    function = callable.__func__ if type(callable) is MethodType else callable
    return type(function) is FunctionType and function.__name__ in ("_release_save", "_acquire_restore")


def _begins_thread(frame: FrameType) -> bool:
    """Whether a wait is that of ``Thread.start()`` for the new thread, which everybody who makes threads goes through:
    ``asyncio.to_thread``, too."""
    for _ in range(2):
        caller = frame.f_back
        if caller is None:
            return False
        frame = caller
    return frame.f_code is threading.Thread.start.__code__


def _looks_at_future(frame: FrameType) -> bool:
    """Whether asyncio asks for the state of a future of ``concurrent.futures``, whose lock nobody keeps for long.

    It does so in the middle of its own work (``_chain_future``): what it has seen before must not change meanwhile.
    """
    method = frame.f_back
    caller = None if method is None else method.f_back
    return (
        method is not None
        and method.f_code.co_filename == _FUTURES
        and caller is not None
        and caller.f_code.co_filename.startswith(_ASYNCIO)
    )


def on_return(code: CodeType, offset: int, callable: Any, argument: Any) -> Any:
    """C_RETURN: a C call is over."""
    try:
        lwp = current.get(os_ident())
        if lwp is not None:
            call = lwp.watch.call
            if call is not None and call.code is code and call.site.offset == offset:
                lwp.watch.reactions.over(lwp, call, raised=False)
    except BaseException as exc:
        failed(exc)


def on_raise(code: CodeType, offset: int, callable: Any, argument: Any) -> Any:
    """C_RAISE: a C call has raised."""
    try:
        lwp = current.get(os_ident())
        if lwp is not None:
            call = lwp.watch.call
            if call is not None and call.code is code and call.site.offset == offset:
                lwp.watch.reactions.over(lwp, call, raised=True)
    except BaseException as exc:
        failed(exc)
