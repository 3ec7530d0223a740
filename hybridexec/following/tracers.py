"""Tracers: what ``sys.settrace`` and ``sys.setprofile`` have set in a step is in force wherever the loop goes.

Both belong to an OS thread.  On asyncio all coroutines share that of the loop's thread, so coverage or a debugger that
one of them has started sees the others, too.  So whoever gives the loop up notes what its thread has, and whoever takes
it sets the same, if it has something else.  While nobody traces, that is a comparison of None with None.

* A function is what it is on any thread.  But an object may keep account of the calls of one thread (coverage's
  tracers do); such a tool has a hook for new threads, which starts another such object there (``threading.settrace``).
  So where there is a hook an LWP gets that, and then keeps what the hook has made of it.
* The sampler takes the loop from a step that stands in a call, and no function tells what another thread's tracer is.
  It is read from CPython's structure (``platform/memory.py``); only with the GIL, as the other thread might change it
  meanwhile.
* A tracer that runs is not called again: where the loop leaves a step at a debugger's prompt (if told to), it goes
  on without that debugger, until the step is back.
* A step that was without the loop may have set a tracer there (in ``blocking()``): when it comes back it is the loop's.

* What cannot be called (a profiler that C code has set) stays on its thread, and so does what raises on another one.
  The log says so once, and the loop continues.

A spare gets a *guard*, which looks for the first frame of the program's and puts the real one in its own place there.
When the steps of a turn are over it gets its guard back.  So what a tracer raises on a spare comes up in a step, or in
what runs the steps, and not in the middle of the protocol.  The home keeps its own, as it does without
this package: there a tracer sees the frames of the loop, too.
"""

from __future__ import annotations

import collections
import functools
import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from .._core.fields import TracersFields
from ..platform import memory
from ..platform.own import own
from ..platform.threads import os_ident
from ..protocol.lwp import IN_POLL

if TYPE_CHECKING:
    from ..protocol.lwp import LWP


_FIELDS = 32
"""Among so many words at the beginning of a thread's state the two are looked for."""

_SYSTEM = 1 << 6 | 1 << 7
"""The tools of ``sys.monitoring`` that stand for all profilers and all tracers."""


_REMEMBERED = 16
"""So many tracers that have raised elsewhere are known to have done so."""

_BUSY = object()
"""Stands for the tracer of a step that the loop has left while it ran."""


class _Guard:
    """Stands on a spare for a tracer or a profiler until the program's code runs there.

    Args:
        tracers: whose it is.
        lwp: the spare.
        put: sets one on the calling thread.
        real: what it stands for.
        wanted: what the loop has; a hook for new threads may stand for that.
    """

    __slots__ = ("_lwp", "_put", "_tracers", "_wanted", "real")

    def __init__(self, tracers: Tracers, lwp: LWP, put: Callable[[Any], None], real: Any, wanted: Any) -> None:
        self.real = real
        self._tracers = tracers
        self._lwp = lwp
        self._put = put
        self._wanted = wanted

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        """An event on the spare's thread."""
        if self._lwp.handle is None or own(frame.f_code):
            return None
        if self._lwp.handle is not IN_POLL:  # in a poll the program's code is called in the middle of the protocol
            self._put(self.real)
            self._tracers.active = True
            self._lwp.slow_exit = True  # the turn that it is in is looked at
        try:
            return self.real(frame, event, arg)
        except BaseException as exc:  # a signal handler's is put off: it has interrupted this package's code
            self._put(None)
            self._tracers.raised(self._wanted, exc)
            return None


def _real(function: Any) -> Any:
    """What a guard stands for; anything else stands for itself."""
    return function.real if type(function) is _Guard else function


class Tracers(TracersFields):
    """The tracer and the profiler of one loop.  Only its holder changes them, or the sampler on the holder's behalf.

    Args:
        tell: says something in a step.

    Attributes:
        active: whether a spare may have one that is not covered by a guard.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tracer = self._profiler = None
        self._tell = tell
        self.active = False
        self._stay: collections.deque[Any] = collections.deque(maxlen=_REMEMBERED)
        self._told: set[tuple[str, str]] = set()
        self._untold = []

    def stays(self, function: Any, reason: str) -> None:
        """A tracer or a profiler stays on its thread, and this is to be said.  The caller may hold the mutex."""
        kind = f"{type(function).__module__}.{type(function).__qualname__}"
        if (kind, reason) not in self._told:
            self._told.add((kind, reason))
            self._untold.append(f"a tracer or profiler of type {kind} {reason}: it stays there")

    def raised(self, function: Any, exc: BaseException) -> None:
        """One has raised on a spare, whose step this is."""
        self._stay.append(function)
        self.stays(function, f"has raised {type(exc).__name__} on another thread than its own")
        self._say()

    def _say(self) -> None:
        while self._untold:
            self._tell(self._untold.pop())

    def _fit(self, function: Any) -> Any:
        """What of a thread's is the loop's, too."""
        function = _real(function)
        if function is None or any(function is each for each in self._stay):
            return None
        if not callable(function):
            self.stays(function, "cannot be called, and so not be set on another thread than its own")
            return None
        return function

    @staticmethod
    def started(lwp: LWP) -> None:
        """The calling thread is an LWP from now on; a new thread has got the hooks at its start."""
        lwp.luggage.hooks = threading.gettrace(), threading.getprofile()

    def given(self, lwp: LWP) -> None:
        """What an LWP's thread has is the loop's: it is about to be without it, or is the home of a new run.

        It says so itself, or the sampler does.
        """
        if lwp.ident == os_ident():
            tracer, profiler = sys.gettrace(), sys.getprofile()
        elif not _somebody_traces():
            tracer = profiler = None
        else:
            there = _of_other(lwp)
            if there is None:
                return
            tracer, profiler = there
        known = lwp.luggage.tracers
        if tracer is None and profiler is None and known == (None, None):
            self._tracer = self._profiler = None
            return
        tracer, profiler = self._fit(tracer), self._fit(profiler)
        if tracer is not known[0] or profiler is not known[1]:
            lwp.luggage.tracers, lwp.luggage.hooks = (tracer, profiler), (threading.gettrace(), threading.getprofile())
        self._tracer, self._profiler = tracer, profiler
        if tracer is not None and lwp.ident != os_ident() and _stands_in_tracer(lwp, tracer):
            self._tracer, lwp.luggage.tracers = None, (_BUSY, profiler)

    def covered(self, lwp: LWP) -> None:
        """The steps of a turn are over on an LWP: if it is a spare, a guard covers what they have run under."""
        tracer, profiler = sys.gettrace(), sys.getprofile()
        if lwp is lwp.carrying.home or (tracer is None and profiler is None):
            return
        if tracer is not None:
            sys.settrace(None)
        if profiler is not None:
            sys.setprofile(None)
        self._wear(lwp, self._fit(tracer), self._fit(profiler))

    def taken(self, lwp: LWP) -> None:
        """The calling thread, an LWP, holds the loop."""
        if self._untold:
            self._say()
        tracer, profiler = sys.gettrace(), sys.getprofile()
        if tracer is self._tracer and profiler is self._profiler:
            return
        tracer, profiler = self._fit(tracer), self._fit(profiler)
        if lwp.handle is not None:
            if tracer is not lwp.luggage.tracers[0]:
                self._tracer = tracer
            if profiler is not lwp.luggage.tracers[1]:
                self._profiler = profiler
        trace, tracer_hook = _choose(tracer, self._tracer, lwp.luggage.hooks[0], threading.gettrace)
        profile, profiler_hook = _choose(profiler, self._profiler, lwp.luggage.hooks[1], threading.getprofile)
        lwp.luggage.hooks = tracer_hook, profiler_hook
        if trace is not tracer or profile is not profiler:
            self._wear(lwp, trace, profile)

    def _wear(self, lwp: LWP, trace: Any, profile: Any) -> None:
        """Set a tracer and a profiler on the calling thread; None leaves there what stays there."""
        tracer, profiler = sys.gettrace(), sys.getprofile()
        if _guards(lwp):
            if trace is not None:
                trace = _Guard(self, lwp, sys.settrace, trace, self._tracer)
            if profile is not None:
                profile = _Guard(self, lwp, sys.setprofile, profile, self._profiler)
        changes = trace is not tracer and (trace is not None or self._fit(tracer) is not None)
        if changes:
            _untrace()
        # No function of ours is called after that: a debugger may stop in it.
        if profile is not profiler and (profile is not None or self._fit(profiler) is not None):
            sys.setprofile(profile)
        if changes:
            sys.settrace(trace)


def _guards(lwp: LWP) -> bool:
    """Whether an LWP gets guards now: it is a spare without a step."""
    return lwp.handle is None and lwp is not lwp.carrying.home


def _choose(mine: Any, wanted: Any, known: Any, hook_for_threads: Callable[[], Any]) -> tuple[Any, Any]:
    """What the calling thread gets, for its tracer or its profiler.

    Args:
        mine: what it has.
        wanted: what the loop has.
        known: the hook that ``mine`` goes back to.
        hook_for_threads: tells the hook for new threads.

    Returns:
        What it gets, and the hook that this goes back to.
    """
    if mine is wanted:
        return mine, known
    hook = None if wanted is None or isinstance(wanted, FunctionType) else hook_for_threads()
    if hook is None:
        return wanted, None
    return (hook if mine is None or known is not hook else mine), hook


def _untrace() -> None:
    """Have the protocol's frames on the calling thread forget the tracer that they were called under.

    One of coverage's that has been stopped takes away whatever tracer there is when it is called again.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if own(frame.f_code):
            frame.f_trace = None
        frame = frame.f_back


def _stands_in_tracer(lwp: LWP, tracer: Any) -> bool:
    """Whether the thread of an LWP stands in its tracer, if that is Python code: at the prompt of a debugger."""
    frame = lwp.watch.frame()
    codes: set[CodeType | None] = {_code(tracer)}
    running: set[CodeType | None] = set()
    while frame is not None:
        codes.add(_code(frame.f_trace))
        running.add(frame.f_code)
        frame = frame.f_back
    return bool((codes & running) - {None})


def _code(function: Any) -> CodeType | None:
    if not isinstance(function, FunctionType | MethodType):
        function = vars(type(function)).get("__call__")
    code = getattr(function, "__code__", None)  # a method gives its function's
    return code if isinstance(code, CodeType) else None


def _somebody_traces() -> bool:
    """Whether any thread of the process has a tracer or a profiler; True if nobody knows."""
    tools = getattr(sys.monitoring, "_all_events", None)
    return tools is None or any(mask & _SYSTEM for mask in tools().values())


def _of_other(lwp: LWP) -> tuple[Any, Any] | None:
    """The tracer and the profiler of another thread, which does not run; None if they cannot be told."""
    places = _places()
    if places is None or not memory.GIL or not lwp.watch.thread_state:
        return None
    fields = memory.words(lwp.watch.thread_state, _FIELDS)
    return memory.thing(fields[places[0]]), memory.thing(fields[places[1]])


@functools.cache
def _places() -> tuple[int, int] | None:
    """Where a thread's state has its tracer and its profiler; None where they are not found."""
    found = _place(sys.gettrace, sys.settrace), _place(sys.getprofile, sys.setprofile)
    return None if found[0] is None or found[1] is None else (found[0], found[1])


def _place(get: Callable[[], Any], put: Callable[[Any], None]) -> int | None:
    def probe(*_: object) -> None: ...

    before = get()
    put(probe)
    try:
        return memory.find(memory.thread_state(), _FIELDS, id(probe))
    finally:
        put(before)
