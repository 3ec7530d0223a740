"""What the tasks of the torture share, and what they look at while they run.

Before and behind everything that blocks or awaits (:class:`Point`): the step holds the loop; no other step of the loop
is between two such points; the context variables, the current task and the running loop are its own.  Critical
sections in plain Python (:meth:`Shared.section`) break if any two steps of one loop ever run at once.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import contextvars
import ctypes
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import hybridexec
from hybridexec import HybridLoop
from hybridexec.protocol.lwp import current

LIBC = ctypes.CDLL(None)
VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("name")

BROKEN: list[str] = []
"""Everything that was found.  Whatever becomes of the exception, it is seen at the end."""


class Broken(BaseException):
    """The contract is broken."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        BROKEN.append(what)


class Oops(Exception):
    """What a task raises on purpose."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a seed decides for a whole loop."""

    name: str
    tasks: int
    config: dict[str, Any]
    debug: bool
    alone: bool  # nothing blocks on another task: there are so few LWPs that all of them may be blocked
    signals: bool  # signals come all the time, if the home is the main thread

    @staticmethod
    def of(name: str, tasks: int) -> Plan:
        """The plan of this name."""
        rng = random.Random(f"{name}/plan")
        alone = rng.random() < 0.2
        config = {
            "max_lwps": rng.choice([2, 3, 5]) if alone else 2048,
            "spare_lwps": rng.choice([0, 1]) if alone else rng.choice([0, 1, 1, 4]),
            "lwp_idle_timeout": rng.choice([0, 0.005, 0.05, 10]),
            "threshold": rng.choice([0.001, 0.005, 0.005]),
            "preempt": rng.choice([None, None, 0.005, 0.02]),
        }
        return Plan(
            name=name,
            tasks=tasks,
            config=config,
            debug=rng.random() < 0.15,
            alone=alone,
            signals=rng.random() < 0.25,
        )


class Shared:
    """What all tasks of one loop share."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.preempts = plan.config["preempt"] is not None
        self.loop: HybridLoop
        self.inside: object = None
        self.running: set[str] = set()  # who is between two points: nobody, whenever a step begins or goes on
        self.counter = 0  # changed by critical sections alone
        self.sections = 0  # how many there were: an exact sum, kept under a lock
        self.lock = threading.Lock()
        self.locks = [threading.Lock() for _ in range(4)]
        self.rlocks = [threading.RLock() for _ in range(2)]
        self.queue: asyncio.Queue[int] = asyncio.Queue()
        self.put = self.got = 0
        self.begun: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.callbacks = self.called = 0
        self.foreign: list[threading.Thread] = []
        self.surprises = 0  # how often the detector took something for a block that is none: see surprised()

    def surprised(self, user_thread: str | None, function: str) -> None:
        """The loop leaves a step.  If that has announced no block, it is a false alarm.

        A thread that neither the interpreter nor the system gives any time for some 10 ms looks as if it were blocked;
        on a loaded machine that happens.  Then there is a switch where there should be none, and whatever depends on
        there being none is looked at no longer.
        """
        if user_thread in self.running or function.startswith(("Shared.", "Point.", "Watching.")):
            self.surprises += 1
            self.running.discard(user_thread or "")

    def section(self) -> None:
        """A critical section in plain Python, which asyncio code may take for granted to be one."""
        with hybridexec.pinned() if self.preempts else contextlib.nullcontext():
            mine = object()
            if self.inside is not None and not self.surprises:
                raise Broken("two steps at once: one begins a section while another is in it")
            self.inside = mine
            counter = self.counter
            for _ in range(3):
                if self.inside is not mine and not self.surprises:
                    raise Broken("two steps at once: one begins a section while this one is in it")
            self.counter = counter + 1
            self.inside = None
            with self.lock:
                self.sections += 1

    def look(self) -> None:
        """Whether the calling step holds the loop."""
        lwp, holder = current.get(_thread.get_ident()), self.loop._carrying.holder
        if lwp is None or holder is not lwp or lwp.ident != _thread.get_ident():
            raise Broken(f"{lwp} goes on without the loop: the holder was {holder}")
        if asyncio.get_running_loop() is not self.loop:
            raise Broken("another loop runs here")

    def callback(self, function: Callable[[], object] | None = None) -> None:
        """What runs as a bare callback."""
        self.look()
        self.section()
        if function is not None:
            function()
            self.look()
            self.section()
        self.called += 1

    def start(self, thread: threading.Thread) -> None:
        """Start a thread that is no LWP."""
        self.foreign.append(thread)
        thread.start()


class Point:
    """Between two statements of a task: ``with point:`` stands around what blocks or awaits, and nothing else.

    A task counts as running everywhere else, unless steps are preempted.
    """

    def __init__(self, shared: Shared, name: str) -> None:
        self.shared = shared
        self.name = name
        self.task = asyncio.current_task()
        VARIABLE.set(name)

    def __enter__(self) -> None:
        self.shared.look()
        self.shared.section()
        self.shared.running.discard(self.name)

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.shared.look()
        if not self.shared.preempts:
            if self.shared.running:
                raise Broken(f"{self.name} goes on while {self.shared.running} runs")
            self.shared.running.add(self.name)
        if VARIABLE.get() != self.name or asyncio.current_task() is not self.task:
            raise Broken(f"{self.name} finds itself in {VARIABLE.get()}, {asyncio.current_task()}")
        self.shared.section()


class Garbage:
    """Is part of a cycle, so that it ends wherever the collector happens to run, by a call that may block.

    Pinned, since else that is a switch point.
    """

    def __init__(self) -> None:
        self.cycle = self
        self.lock = threading.RLock()

    def __del__(self) -> None:
        with hybridexec.pinned():
            self.lock.acquire()
            self.lock.release()


def settle(future: asyncio.Future[str], value: str) -> None:
    """End a future, if nobody has cancelled it."""
    if not future.done():
        future.set_result(value)
