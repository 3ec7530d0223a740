"""Upcalls: what the detector tells the scheduler, and what everybody else may listen to.

The name is the one of *scheduler activations* (Anderson, Bershad, Lazowska, Levy, 1991): the kernel calls up
into the thread library when one of its threads blocks.  Here the detector plays the kernel.  The core emits an
:class:`Upcall` for each such notice and knows nothing of who listens; whoever watches (the report of the command
line, a metrics exporter, a test) is an :class:`Instrument`.
"""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ..platform.threads import on_main_thread
from .log import logger, say
from .tally import Tally

__all__ = ["CallSite", "Detection", "Emitter", "Instrument", "Upcall", "UpcallKind", "logger"]

if TYPE_CHECKING:
    import asyncio


class UpcallKind(enum.Enum):
    """What happened."""

    __hash__ = object.__hash__  # each is the only one of its kind; Enum's own is written in Python

    BLOCKED = "blocked"
    """A step blocks, or (modes "observe" and "raise") would have frozen a default loop."""
    UNBLOCKED = "unblocked"
    """The blocking call is over; the upcall's ``duration`` says how long it took."""
    PREEMPTED = "preempted"
    """A step of Python overran its time slice and waits for its next turn."""
    LWP_STARTED = "lwp_started"
    """The pool has started an LWP."""
    LWP_RETIRED = "lwp_retired"
    """An LWP has ended: it was idle for long, or its loop is closed."""
    EXHAUSTED = "exhausted"
    """``max_lwps`` LWPs are blocked: the loop stands still until one of them comes back."""


class Detection(enum.Enum):
    """How a block was noticed."""

    DECLARED = "declared"
    """The called function is in the catalogue (or was learned)."""
    DISCOVERED = "discovered"
    """The sampler saw the step stand on one call for longer than the threshold."""
    PREEMPTED = "preempted"
    """The step overran its time slice."""
    EXPLICIT = "explicit"
    """The program said so: ``with hybridexec.blocking():``."""
    HELD_GIL = "held the GIL"
    """Nothing could run meanwhile, not even the sampler: it is reported afterwards, and nothing could help."""


@dataclass(frozen=True, slots=True)
class CallSite:
    """Where in the program a call stands."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.function}"


class Origin(NamedTuple):
    """Where the program has called what blocks.

    Attributes:
        site: the program's line.
        via: the function that it has called there, where that, or what it has called, makes the call that blocks.
    """

    site: CallSite
    via: str | None


@dataclass(frozen=True, slots=True)
class Upcall:
    """One notice of the detector or of the pool.

    Attributes:
        kind: what happened.
        time: when, in seconds of ``time.monotonic()``.
        loop: the event loop it concerns.
        thread: the name of the LWP, as ``threading.enumerate()`` shows it.
        task: the name of the task whose step it is; None outside a task and for notices of the pool.
        site: where the call that blocks stands, often in a library; None where there is none.
        callable: the blocking callable, as ``module.name``; None where it is not known.
        detection: how it was noticed; None for notices of the pool.
        duration: seconds the block took, once it is over (UNBLOCKED); None before.
        in_poll: whether it is a call in a method of a protocol, which the engine makes in the middle of its poll
            (uvloop): the loop cannot move away from there.
        program_site: the innermost line of the program on the way to that call: neither the standard library's, nor an
            installed package's.  If there is none, the outermost that is not asyncio's; None if that cannot be told.
        via: the function that the program has called there, as ``module.name``, if that is not the callable itself.
    """

    kind: UpcallKind
    time: float
    loop: asyncio.AbstractEventLoop
    thread: str
    task: str | None = None
    site: CallSite | None = None
    callable: str | None = None
    detection: Detection | None = None
    duration: float | None = None
    in_poll: bool = False
    program_site: CallSite | None = None
    via: str | None = None


class Instrument:
    """Receives upcalls.  Every method is optional: override those of interest.

    The methods are called on the thread where the thing happens (an LWP, or the sampler), one at a time per loop or
    not, and :meth:`unblocked` while the step waits without the loop: an instrument that keeps state guards it.  They
    should be quick, and must not block: the step waits for them, and so does the detection of other blocks where the
    sampler calls.

    Whatever an instrument raises, the loop continues.  The log says so once, with types and places only; the instrument
    is called again, and dropped when it has raised ten times in a row (:class:`~hybridexec.Stats` tells).

    The idea of one class of optional methods is Trio's ``trio.abc.Instrument``.
    """

    def blocked(self, upcall: Upcall) -> None:
        """A step blocks."""

    def unblocked(self, upcall: Upcall) -> None:
        """A blocking call is over; ``upcall.duration`` is set."""

    def preempted(self, upcall: Upcall) -> None:
        """A step overran its time slice."""

    def lwp_started(self, upcall: Upcall) -> None:
        """The pool has started an LWP."""

    def lwp_retired(self, upcall: Upcall) -> None:
        """An LWP has ended."""

    def exhausted(self, upcall: Upcall) -> None:
        """Every LWP that the pool may have is blocked."""


METHODS = {kind: kind.value for kind in UpcallKind}

PATIENCE = 10
"""An instrument is dropped when it has raised so many times in a row."""


def _listens(instrument: object, method: str) -> bool:
    """Whether an instrument, or any object, has a method of its own of this name."""
    found = getattr(instrument, method, None)
    return callable(found) and getattr(found, "__func__", None) is not getattr(Instrument, method)


class _Listener:
    """An instrument, and how it fares."""

    __slots__ = ("failures", "instrument", "name", "told")

    def __init__(self, instrument: object) -> None:
        self.instrument = instrument
        self.name = f"{type(instrument).__module__}.{type(instrument).__qualname__}"
        self.failures = 0  # in a row
        self.told = False  # the log has said that it raises


class Emitter:
    """Counts upcalls and passes them to the instruments that override the method of their kind.  Thread-safe.

    Attributes:
        tally: of each kind so many, and how long blocks were.
        hears_of_blocks: whether an instrument is told of blocks.
        shielded: whether what a signal handler raises comes up elsewhere, if it comes while an instrument is called.
    """

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        self._lock = threading.Lock()
        self.tally = Tally(dict.fromkeys(UpcallKind, 0))
        self._failures = 0
        self._dropped: list[str] = []
        self._listeners: dict[UpcallKind, tuple[_Listener, ...]] = {}
        self.shielded: Callable[[], bool] = bool
        listeners = [_Listener(instrument) for instrument in instruments]
        for kind, method in METHODS.items():
            self._listeners[kind] = tuple(each for each in listeners if _listens(each.instrument, method))
        self.hears_of_blocks = self._hears_of_blocks()

    def count(self, kind: UpcallKind) -> bool:
        """Count an upcall.  Returns whether it has a listener: if not, there is no need to build it."""
        self.tally.count(kind)
        return self._listeners[kind] != ()

    def _hears_of_blocks(self) -> bool:
        return self._listeners[UpcallKind.BLOCKED] != () or self._listeners[UpcallKind.UNBLOCKED] != ()

    def emit(self, upcall: Upcall) -> None:
        """Pass on an upcall that was counted."""
        method = METHODS[upcall.kind]
        for listener in self._listeners[upcall.kind]:
            try:
                getattr(listener.instrument, method)(upcall)
            except BaseException as exc:
                if not isinstance(exc, Exception) and on_main_thread() and not self.shielded():
                    raise  # a signal handler's, as far as anybody can tell
                self._failed(listener, method, exc)
            else:
                listener.failures = 0

    def counts(self) -> dict[UpcallKind, int]:
        """How many upcalls of each kind there were."""
        return self.tally.counts()

    def failures(self) -> int:
        """How many calls of instruments have raised."""
        return self._failures

    def dropped(self) -> tuple[str, ...]:
        """The types of the instruments that are not called any more."""
        with self._lock:
            return tuple(self._dropped)

    def _failed(self, listener: _Listener, method: str, exc: BaseException) -> None:
        with self._lock:
            self._failures += 1
            listener.failures += 1
            tells, listener.told = not listener.told, True
            drops = listener.failures == PATIENCE
            if drops:
                self._dropped.append(listener.name)
                for kind, listeners in self._listeners.items():
                    self._listeners[kind] = tuple(each for each in listeners if each is not listener)
                self.hears_of_blocks = self._hears_of_blocks()
        if tells:
            say(
                logging.ERROR,
                "instrument %s has raised %s in %s(), at %s; it is called again, and further failures are only counted",
                *(listener.name, type(exc).__name__, method, _place(exc)),
            )
        if drops:
            say(logging.ERROR, "instrument %s has raised %d times in a row and is dropped", listener.name, PATIENCE)


def _place(exc: BaseException) -> CallSite | None:
    """Where an exception was raised."""
    site, traceback = None, exc.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        site, traceback = CallSite(code.co_filename, traceback.tb_lineno, code.co_qualname), traceback.tb_next
    return site
