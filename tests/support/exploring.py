"""Exploring: a computer whose threads are greenlets, on which a strategy chooses every switch.

Code that is written for threads runs here under a scheduler that decides what the system's would decide by chance, in
the manner of Tokio's loom.  One thread runs at a time, and only at a *point* may another go on: before it takes a lock,
rings, polls, and before whatever else says ``point()``.  A thread that waits says what for, as a predicate, so who can
run is always known, and a deadlock is seen at once.  Time is virtual: it passes when a thread says that it works, or
when nobody can run and somebody waits for no longer than so long.

Two strategies.  :class:`Exhaustive` goes through every schedule with at most so many *preemptions* (a switch away from
a thread that could go on): most races need one or two.  :class:`Pct` is probabilistic concurrency testing (Burckhardt
et al., 2010): the thread of the highest priority runs, priorities are random, and at a few random points the one that
runs falls behind all others; a race that needs d such points among k is found with a probability of at least
1/(n k^(d-1)) each time.

A scene has to be deterministic but for the switches: a schedule is the list of the choices that were made, and playing
it again fails again.
"""

from __future__ import annotations

import enum
import math
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn, Protocol

import greenlet

MOST_POINTS = 20_000
"""A schedule with more points goes round in circles."""

MOST_TIME = 60.0
"""Virtual seconds after which a scene has to be over: whoever only naps from then on waits in vain."""

_abandoned: list[Thread] = []
"""Threads of schedules that failed.  One that is dropped would be thrown an exception in the middle of the code that is
explored, which it takes for a signal handler's."""


class Grain(enum.IntEnum):
    """Where a thread can be interrupted."""

    SYNC = 1
    """At locks, bells, polls, and between steps."""
    READS = 2
    """Also before each access to what threads share, outside of locks."""
    ALL = 3
    """Also inside of locks: others may look without the lock."""


class Failed(Exception):
    """A schedule went wrong."""


class Injected(MemoryError):
    """What a :class:`Fault` raises."""


class Fault:
    """An exception that comes up once, in a thread of one kind, where it accesses what threads share.

    Args:
        kind: the beginning of the thread's name.
        at: at the how-manieth access; 0: never, they are only counted.
    """

    def __init__(self, kind: str, at: int) -> None:
        self._kind = kind
        self._at = at
        self.accesses = 0
        self.raised = False
        self.due: Callable[[], bool] = lambda: True  # whether it may come now

    def __repr__(self) -> str:
        return f"Fault({self._kind!r}, {self._at})"

    def look(self, thread: Thread) -> None:
        """A thread is about to access something."""
        if thread.name.startswith(self._kind) and self.due():
            self.accesses += 1
            if self.accesses == self._at:
                self.raised = True
                raise Injected


class Strategy(Protocol):
    """Chooses who runs."""

    def choose(self, runnable: list[Thread], current: Thread | None) -> Thread:
        """Who of several runs next; ``current`` is the one that has run, if it could go on, and is the first."""


class Thread:
    """A thread of the machine; what ``threading.Thread`` is to the code that is explored."""

    def __init__(
        self, machine: Machine, target: Callable[..., object], args: tuple[Any, ...] = (), name: str = ""
    ) -> None:
        self._machine = machine
        self.name = name
        self.ident: int | None = None
        self.until: Callable[[], bool] | None = None  # what it waits for
        self.deadline = math.inf  # how long
        self.timed_out = False
        self.starved = 0.0  # for how long it, or the owner of a mutex that it needs, could have run while others did
        self.needs: RLock | None = None
        self.what = "its start"  # ... in words
        self.locks = 0  # how many it holds
        self.signal: Callable[[], object] | None = None  # the handler of one that has come, which is due
        self.anywhere = False  # whether it may come at any point, and not only in what a signal interrupts
        self.alive = False
        self.ended: Callable[[], object] = lambda: None  # called on it at its end
        self._started = Event(machine)
        self._run: Callable[[], object] = lambda: target(*args)
        self.greenlet = greenlet.greenlet(self._main, machine.hub)

    def __hash__(self) -> int:
        return sum(self.name.encode())  # sets of them have the same order each time

    def start(self) -> None:
        self.ident = self._machine.add(self)
        self.alive = True

    def _main(self) -> None:
        self._started.set()
        self._run()
        self.alive = False
        self.ended()
        self._machine.threads.remove(self)

    def is_alive(self) -> bool:
        return self.alive

    def can_run(self) -> bool:
        return self.until is None or self.timed_out or self.until()

    def starves(self) -> bool:
        """Whether it is others that keep it from going on: those that run instead of it, or of who is ahead of it."""
        owner = self.needs.owner if self.needs is not None else None
        return owner.starves() if owner is not None else self.can_run()

    def where(self) -> str:
        """What it does, and in which functions, for who has to understand a failure."""
        frame = self.greenlet.gr_frame if self.greenlet is not greenlet.getcurrent() else sys._getframe(1)
        names = []
        while frame is not None:
            if frame.f_code.co_filename != __file__:
                names.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
            frame = frame.f_back
        return f"{'runs' if self.until is None else 'waits for ' + self.what} in {' < '.join(names[:4])}"

    def join(self) -> None:
        self._machine.wait(lambda: not self.alive, what=f"the end of {self.name}")


class Machine:
    """What the threads run on.

    Args:
        strategy: who runs next.
        grain: where a thread can be interrupted.
        fault: what is raised in the middle of it.
    """

    def __init__(self, strategy: Strategy, grain: Grain, fault: Fault | None = None) -> None:
        self._strategy = strategy
        self.grain = grain
        self.fault = fault
        self.hub = greenlet.getcurrent()
        self._idents = 0
        self._failure: BaseException | None = None
        self.threads: list[Thread] = []
        self.current: Thread = None  # type: ignore[assignment]  # set by run()
        self.time = 0.0
        self.points = 0
        self.released: Callable[[], None] = lambda: None  # called whenever a thread has let go of its last lock
        self.story: list[str] = []  # every switch, for who has to understand a failure

    def thread(self, target: Callable[..., object], args: tuple[Any, ...] = (), name: str = "", **_: object) -> Thread:
        """As ``threading.Thread``."""
        return Thread(self, target, args, name)

    def add(self, thread: Thread) -> int:
        self.threads.append(thread)
        self._idents += 1
        return self._idents

    def run(self, main: Callable[[], object]) -> None:
        """Run a program: its first thread, and all that this starts, to their ends."""
        first = Thread(self, main, name="main")
        first.ident = self.add(first)
        first.alive = True
        try:
            while self.threads and self._failure is None:
                self.current = self._next(None)
                self.current.greenlet.switch()  # comes back when a thread has ended, or somebody has failed
        except Exception as exc:
            self._failure = exc
        if self._failure is not None:
            _abandoned.extend(self.threads)
            raise self._failure

    def fail(self, why: str) -> NoReturn:
        """End this schedule from any thread, without an exception that the code there could take for its own."""
        lines = [f"  {thread.name}: {thread.where()}" for thread in self.threads]
        self._failure = Failed("\n".join([f"{why}, at {self.time:.4f} s", *lines]))
        if greenlet.getcurrent() is not self.hub:
            self.hub.switch()
        raise self._failure

    def check(self, condition: object, why: str) -> None:
        if not condition:
            self.fail(why)

    @property
    def ended(self) -> tuple[list[str], int, float]:
        """What there is to compare, once it is over."""
        return self.story, self.points, self.time

    # ---------------------------------------------------------------- switching

    def look(self) -> None:
        """The running thread looks at, or changes, what threads share; a point at the grains READS and ALL."""
        if self.fault is not None:
            self.fault.look(self.current)
        if self.grain is Grain.ALL or (self.grain is Grain.READS and not self.current.locks):
            self.point()

    def point(self) -> None:
        """Others may run here."""
        me = self.current
        if me.locks and self.grain is not Grain.ALL:
            return
        self.points += 1
        if self.points > MOST_POINTS:
            self.fail("it goes round in circles")
        chosen = self._next(me)
        if chosen is not me:
            self._switch(chosen, "is interrupted")
        if me.anywhere and me.signal is not None:
            handler, me.signal = me.signal, None
            handler()

    def give_way(self) -> None:
        """Let others run first, if anybody can.  Who spins calls it: no system starves the others for ever."""
        others = [thread for thread in self.threads if thread is not self.current and thread.can_run()]
        if others:
            self._switch(others[0] if len(others) == 1 else self._strategy.choose(others, None), "spins")

    def wait_interruptibly(self, until: Callable[[], bool], timeout: float, *, what: str) -> bool:
        """Wait as in a system call that a signal interrupts: its handler is called, and the call goes on."""
        me = self.current
        deadline = math.inf if timeout < 0 else self.time + timeout
        while not until():
            came = self.wait(lambda: until() or me.signal is not None, timeout, what=what)
            handler, me.signal = me.signal, None
            if handler is None:
                return came
            handler()
            if timeout > 0:
                timeout = max(deadline - self.time, 0.0)
        return True

    def wait(self, until: Callable[[], bool], timeout: float = -1, *, what: str) -> bool:
        """Wait; -1: for ever.  Returns whether it has come true in time."""
        if until():
            return True
        if timeout == 0:
            return False
        me = self.current
        me.until, me.what = until, what
        me.deadline = math.inf if timeout < 0 else self.time + timeout
        chosen = self._next(None)
        if chosen is not me:
            self._switch(chosen, f"waits for {what}")
        me.until, me.deadline = None, math.inf
        timed_out, me.timed_out = me.timed_out, False
        return not timed_out

    def work(self, seconds: float) -> None:
        """Compute for so long.  Who could run meanwhile is starved."""
        for thread in self.threads:
            if thread is not self.current and thread.starves():
                thread.starved += seconds
        self._pass(self.time + seconds)
        self.point()

    def sleep(self, seconds: float) -> None:
        self.wait(lambda: False, seconds, what=f"{seconds} s to pass")

    def _pass(self, time: float) -> None:
        # Whose time is up does not see any more what comes a moment later: as with a system's lock.
        self.time = time
        for thread in self.threads:
            if thread.until is not None and thread.deadline <= time and not thread.until():
                thread.timed_out = True

    def _switch(self, chosen: Thread, why: str) -> None:
        me = self.current
        self.story.append(f"{self.time:.4f} {me.name} {why}: {chosen.name}")
        self.current = chosen
        chosen.greenlet.switch()

    def _next(self, current: Thread | None) -> Thread:
        while True:
            runnable = [thread for thread in self.threads if thread.can_run()]
            if runnable:
                break
            soonest = min(thread.deadline for thread in self.threads)
            if soonest > MOST_TIME:
                self.fail("nothing goes on")
            self._pass(soonest)
        if len(runnable) == 1:
            return runnable[0]
        if current is not None and runnable[0] is not current:
            runnable.remove(current)
            runnable.insert(0, current)
        return self._strategy.choose(runnable, current)


# -------------------------------------------------------------------- what the code takes instead of its own


class Lock:
    """As ``_thread.allocate_lock()``.  Its release is a point; whether an acquire comes before it is all the same."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._locked = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if not self._machine.wait_interruptibly(lambda: not self._locked, timeout if blocking else 0, what="a ring"):
            return False
        self._locked = True
        return True

    def release(self) -> None:
        self._machine.point()
        if not self._locked:
            raise RuntimeError("release unlocked lock")
        self._locked = False


class RLock:
    """As ``_thread.RLock()``: taking it is a point."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.owner: Thread | None = None
        self._count = 0

    def acquire(self, blocking: bool = True) -> bool:
        me = self._machine.current
        if self.owner is not me:
            self._machine.point()
            if not blocking and self.owner is not None:
                return False
            me.needs = self
            self._machine.wait(lambda: self.owner is None, what="the mutex")
            me.needs = None
            self.owner = me
        self._count += 1
        me.locks += 1
        return True

    def release(self) -> None:
        self._count -= 1
        self._machine.current.locks -= 1
        if not self._count:
            self._machine.released()
            self.owner = None

    def __enter__(self) -> RLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _is_owned(self) -> bool:
        return self.owner is self._machine.current


class Event:
    """As ``threading.Event()``."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.is_set = False

    def set(self) -> None:
        self.is_set = True

    def wait(self, timeout: float = -1) -> bool:
        return self._machine.wait(lambda: self.is_set, timeout, what="an event")


# -------------------------------------------------------------------- strategies


class Exhaustive:
    """Every schedule with at most ``preemptions`` preemptions, one after the other, depth first."""

    def __init__(self, preemptions: int) -> None:
        self._most = preemptions
        self._path: list[tuple[int, int]] = []  # each choice: of how many, and which
        self._at = 0
        self._left = preemptions

    def __iter__(self) -> Iterator[Exhaustive]:
        while True:
            self._at, self._left = 0, self._most
            yield self
            while self._path and self._path[-1][1] + 1 == self._path[-1][0]:
                self._path.pop()
            if not self._path:
                return
            count, index = self._path[-1]
            self._path[-1] = count, index + 1

    def choose(self, runnable: list[Thread], current: Thread | None) -> Thread:
        if current is not None and not self._left:
            return current
        if self._at == len(self._path):
            self._path.append((len(runnable), 0))
        count, index = self._path[self._at]
        assert count == len(runnable), "the scene is not deterministic"
        self._at += 1
        if index and current is not None:
            self._left -= 1
        return runnable[index]

    def __repr__(self) -> str:
        return f"Exhaustive({self._most}), choices {[index for _, index in self._path[: self._at]]}"


class Pct:
    """One schedule of probabilistic concurrency testing.

    Args:
        seed: which one.
        depth: how many points there are at which the running thread falls behind, and one.
        length: about how many choices there will be.
    """

    def __init__(self, seed: int, depth: int, length: int) -> None:
        self._name = f"Pct({seed}, {depth}, {length})"
        self._random = random.Random(seed)
        self._changes = {self._random.randrange(length) for _ in range(depth - 1)}
        self._priorities: dict[int, float] = {}
        self.choices = 0

    def choose(self, runnable: list[Thread], current: Thread | None) -> Thread:
        for thread in runnable:
            if thread.ident not in self._priorities:
                self._priorities[thread.ident or 0] = self._random.random()
        if self.choices in self._changes and current is not None:
            self._priorities[current.ident or 0] = -self.choices
        self.choices += 1
        return max(runnable, key=lambda thread: self._priorities[thread.ident or 0])

    def __repr__(self) -> str:
        return self._name


def explore_alike(
    plays: Sequence[Callable[[Machine], object]], strategies: Callable[[], Iterable[Strategy]], grain: Grain
) -> int:
    """Play a scene in several ways, once for each strategy: they have to tell the same story, switch by switch.

    Args:
        plays: the ways.
        strategies: makes the strategies, anew for each way.
        grain: where a thread can be interrupted.

    Returns:
        How many schedules that were.

    Raises:
        Failed: the scene has failed in one, with the way there; or two have told another story.
    """
    count = 0
    for together in zip(*(strategies() for _ in plays), strict=True):
        count += 1
        first: Machine | None = None
        for play, strategy in zip(plays, together, strict=True):
            machine = _played(play, strategy, grain, None, count)
            if first is not None and machine.ended != first.ended:
                pairs = zip(first.story, machine.story, strict=False)
                parts = next((n for n, (one, other) in enumerate(pairs) if one != other), -1)
                told = "\n".join([*first.story[: parts + 1], "  or", *machine.story[parts : parts + 1]])
                raise Failed(f"two stories, of {first.points} and {machine.points} points: {strategy}\n{told}")
            first = machine
    return count


def explore(
    play: Callable[[Machine], object],
    strategies: Iterator[Strategy] | Exhaustive,
    grain: Grain,
    fault: Fault | None = None,
) -> int:
    """Play a scene once for each strategy.  Returns how many schedules that were.

    Raises:
        Failed: the scene has failed in one, with the way there.
    """
    count = 0
    for strategy in strategies:
        count += 1
        _played(play, strategy, grain, fault, count)
    return count


def _played(
    play: Callable[[Machine], object], strategy: Strategy, grain: Grain, fault: Fault | None, count: int
) -> Machine:
    machine = Machine(strategy, grain, fault)
    try:
        play(machine)
    except Exception as exc:
        story = "\n".join(machine.story[-60:])
        where = f"in schedule {count}, {grain!r}, {strategy}, {fault}"
        raise Failed(f"{exc!r}\n{where}\n{story}") from exc
    return machine


def pct(seeds: range, depth: int = 3) -> Iterator[Pct]:
    """Schedules of PCT, whose length is that of the longest so far."""
    length = 50
    for seed in seeds:
        strategy = Pct(seed, depth, length)
        yield strategy
        length = max(length, strategy.choices)
