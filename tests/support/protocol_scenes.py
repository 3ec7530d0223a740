"""Scenes of the protocol: a loop of the test's own, whose steps leave and come back by the real protocol.

:class:`Loop` is what ``carrying.py`` sees of an event loop (``host.py``): a queue, timers, a self-pipe, and a batch
run as ``turns.py`` runs it.  It also watches: that one thread at a time runs Python of a step, and holds the loop for
it (rule 1, rule 2), that each step is run once and to its end (rule 7), and that nobody waits longer than the bounds
allow (rule 3, rule 4).

A scene sets up steps, and threads that are none of the loop's; the loop is run until all steps are over, or one has
stopped it, and closed.  Nothing in a scene waits for time to pass but where time is what it is about.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from exploring import Event, Injected, Machine, Thread
from instrumented import Protocol

from hybridexec.observing.upcalls import UpcallKind

WORK = 0.002
"""Seconds that a step takes which only computes."""

TICK = 0.005
"""Seconds between two looks of the sampler."""

NUDGES = 3
"""How often the home is nudged before a signal handler is called: it may be half way in the protocol the first time."""

SPINS = 3
"""Polls in a row that found events, or took no time, after which another one is the poll of an LWP that spins; and
pokes after which one is heard: the holder may take the byte before the poller has run, but not for ever."""

Code = Callable[[Any], None]
"""A step's code: called with the LWP that runs it."""


class Wait:
    """What one step waits for, and another hands it."""

    def __init__(self) -> None:
        self.lwp: Any = None
        self.over = False
        self.since = -math.inf  # when it was handed on


class Loop:
    """An event loop of the test's, and the scene's stage.

    Args:
        protocol: the protocol's modules.
        machine: what it runs on.
        claimable: whether others may take the loop while an LWP polls.
        max_lwps: the most LWPs.
        spare_lwps: how many are kept.
        idle_timeout: when others end.
        longest: how long a step may compute, in the sum.
        stops_by_itself: whether the loop stops when all is over.
    """

    def __init__(
        self,
        protocol: Protocol,
        machine: Machine,
        *,
        claimable: bool = True,
        max_lwps: int = 3,
        spare_lwps: int = 1,
        idle_timeout: float = 10.0,
        longest: float = WORK,
        stops_by_itself: bool = True,
    ) -> None:
        protocol.boot(machine)
        self.machine = machine
        self.claimable = claimable
        self.carrying: Any = None  # made by the home
        self._made = functools.partial(
            protocol.carrying_class,
            claimable=claimable,
            max_lwps=max_lwps,
            spare_lwps=spare_lwps,
            idle_timeout=idle_timeout,
        )
        self._host = protocol.host.Host(
            poll=self, turns=self, luggage=self, home_side=self, voice=self, equip=self._equip
        )
        self._protocol = protocol
        self.states = protocol.lwp.LwpState
        self._handling: Any = None
        self._made_handling = protocol.handlers.Handling
        self._noted: list[Callable[[bool], None]] = []  # signal handlers that wait for the loop
        self._in_call = False  # the home is in a call of its step's, where a signal interrupts nothing of the protocol
        self._steps = 0  # how often code of a step has run
        self._longest = longest
        self._bounds = protocol.record.RETURN_BOUND, protocol.record.HOME_BOUND
        self._ready: collections.deque[tuple[str, Code]] = collections.deque()
        self._timers: list[_Timer] = []
        self._serials = itertools.count()
        self._polls = 0  # in a row that have not waited, without a step in between
        self._pokes = 0  # since an LWP began to wait in a poll
        self._pipe = False  # there is a byte in the self-pipe
        self._runs: dict[str, int] = {}  # how often each step has begun; None of them may stay 0
        self._open = 0  # steps and other threads that are not over
        self._executing: str | None = None  # whose Python code runs ...
        self._executor: Thread | None = None  # ... and where
        self._letters: list[Event] = []
        self._returning = 0  # steps that wait for the loop
        self._away: float | None = None  # since when the home waits while others have the loop
        self._stops_by_itself = stops_by_itself
        self.stopped = Event(machine)
        self.over = False
        self.failures: list[BaseException] = []
        self.upcalls: collections.Counter[UpcallKind] = collections.Counter()

    # ---------------------------------------------------------------- the scene's part

    def step(self, name: str, code: Code) -> None:
        """A step that is ready."""
        self._ready.append(self._new(name, code))

    def later(self, seconds: float, name: str, code: Code) -> None:
        """A timer."""
        heapq.heappush(self._timers, _Timer(self.machine.time + seconds, next(self._serials), self._new(name, code)))

    def _new(self, name: str, code: Code) -> tuple[str, Code]:
        assert name not in self._runs
        self._runs[name] = 0
        self._open += 1
        return name, code

    def submit(self, name: str, code: Code, *, hail: bool = False) -> None:
        """Make a step ready, from any thread (``call_soon``)."""
        step = self._new(name, code)
        self.machine.point()
        self._ready.append(step)
        self.machine.point()
        ident = self.carrying.holder_ident
        if ident is not None and ident != self.machine.current.ident and not (hail and self.carrying.hail()):
            self.break_poll()

    def stop(self) -> None:
        """As ``loop.stop()``."""
        self.carrying.stopping = True
        self.machine.point()
        if self.carrying.holder_ident != self.machine.current.ident:
            self.break_poll()

    def release(self, event: Event) -> None:
        """End a block, from any thread."""
        self.machine.point()
        event.set()

    def signal(self, until: Event) -> Event:
        """A signal comes to the home, whose handler blocks; from any thread.  Returns what is set when it begins."""
        self._open += 1
        begins = self.event()

        def comes() -> None:
            began = self._fair_time()
            try:
                self._call(handler, self._in_call)
            finally:
                begins.set()  # or it has failed before
                home.starved += self._fair_time() - began
                self._one_is_over()

        def handler() -> None:
            begins.set()
            until.wait()

        home = self._home
        home.signal = comes
        return begins

    def strike(self, name: str, until: Event | None = None, *, anywhere: bool = False) -> None:
        """A signal comes to the home, whose handler is the loop's code; from any thread.

        Args:
            name: what the handler is called.
            until: what it blocks in, as a step may.
            anywhere: whether it comes at any point of the protocol.
        """
        self._open += 1
        came = self._fair_time(self._home)

        def handler() -> None:
            waited = self._fair_time(self._home) - came
            most = self._bounds[0] + NUDGES * TICK + (2 + SPINS) * self._longest
            self.machine.check(waited <= most + 1e-9, f"{name} has waited for the loop for {waited:.4f} s")
            if self.carrying.home is not None:
                self.code(name)
                if until is not None:
                    self.block(self.carrying.home, until, signals=True)

        def called(in_call: bool) -> None:
            began = self._fair_time()
            try:
                self._call(handler, in_call)
            finally:
                self._home.starved += self._fair_time() - began  # what it has interrupted waits for it alone
                self._one_is_over()

        def comes() -> None:
            self._pipe = True  # the wake-up fd
            in_call = self._in_call
            try:
                self._noted.append(called)
                self._attend()
            except Injected as exc:  # as Shield._came does
                if self._noted:
                    self._handling.summon()
                if in_call:
                    raise
                self._put_off(exc)

        home, before = self._home, self._home.signal
        home.anywhere = anywhere
        home.signal = comes if before is None else lambda: (before(), comes())  # type: ignore[func-returns-value]

    def _attend(self) -> None:
        """As ``Shield.attend`` does."""
        if not self._noted:
            return
        home = self.carrying.home
        state = None if home is None else home.state
        in_call, self._in_call = self._in_call, False
        try:
            self._handling.attend(lambda: self._call_noted(in_call), half_way=not in_call, nudges=True)
        finally:
            self._in_call = in_call
        if in_call and home is not None:
            self.machine.check(home.state is state, f"a home that was {state} comes out of a handler {home.state}")

    def _call_noted(self, in_call: bool = False) -> None:
        try:
            while self._noted:
                self._noted.pop(0)(in_call)
        finally:
            self._handling.caught_up()
            if self._noted:
                self._handling.summon()

    def _call(self, handler: Callable[[], None], in_call: bool) -> None:
        """As ``Shield._call`` does: what comes up is put off if the signal has interrupted the protocol."""
        interrupted = self._executing if self._executor is self.machine.current else None
        if interrupted is not None:
            self._executing = None
        try:
            begun = self._handling.begin()
            try:
                handler()
            finally:
                self._handling.end(begun)
        except Injected as exc:
            if in_call:
                raise
            self._put_off(exc)
        finally:
            if interrupted is not None:
                self._executing, self._executor = interrupted, self.machine.current

    def _put_off(self, exc: BaseException) -> None:
        """As ``HybridLoop`` does."""
        if self.carrying.home is None:
            self.fail(exc)
        else:
            self.carrying.interrupt_home(exc)

    def lend(self, lwp: Any) -> None:
        """A step is trapped for a signal handler that waits: nothing but that may come in between."""
        if lwp is self.carrying.home or self.carrying.summoned is None:
            return
        steps = self._steps
        with self._or_hold(lwp):
            self._protocol.borrowing.lend(self.carrying, lwp)
        came = self._steps - steps
        self.machine.check(not came or self._broken_off(), f"{came} steps run in the middle of one that lends")

    def spawn(self, function: Callable[[], None]) -> None:
        """Start a thread that is none of the loop's.  One that a step starts may go on when the loop is closed."""
        self.machine.thread(function, name=function.__name__.strip("_")).start()

    def event(self) -> Event:
        """What a block waits for."""
        return Event(self.machine)

    def play(self, *others: Callable[[], None], sampled: bool = False) -> None:
        """Run the loop, beside other threads, close it, and see that all is in order."""
        self.machine.run(lambda: self._main(others, sampled))
        left = self.carrying.lwps | self.carrying.detached
        self.machine.check(not left, f"LWPs are left: {left}")
        for name, runs in self._runs.items():
            self.machine.check(runs == 1, f"step {name} has been run {runs} times")
        self.machine.check(not self._open, "a step is not over")

    def _main(self, others: tuple[Callable[[], None], ...], sampled: bool) -> None:
        if self.machine.fault is not None:  # what fails outside of a run goes to the caller, who can see to it
            self.machine.fault.due = lambda: self.carrying is not None and self.carrying.home is not None
        carrying = self.carrying = self._made()
        carrying.host, carrying.ready, carrying.timers = self._host, self._ready, self._timers
        self._handling = self._made_handling(carrying, lambda: None, self._after_step)
        self._home = self.machine.current
        self.machine.released = self._watch
        self._open += len(others)
        threads = [self.machine.thread(self._other, (other,), name=other.__name__) for other in others]
        for thread in threads:
            thread.start()
        if sampled:
            self.spawn(self._sampler)
        while True:
            try:
                home = carrying.begin()
                carrying.carry(home)
            except Injected as exc:  # as HybridLoop does
                self.fail(exc)
                home = carrying.home
                home.handle = None
                carrying.regain(home)
            carrying.stopping = False
            try:
                carrying.finish(home)
            except Injected as exc:
                self.fail(exc)
                carrying.finish(home)
            carrying.stopping = False
            self.stopped.set()
            if self.failures and self._open:
                self._stops_by_itself = True  # who was to stop it may have failed
                continue
            if (came := self._home.signal) is not None:  # what is left is called when the loop does not run any more
                self._home.signal = None
                came()
            self._attend()
            for thread in threads:
                thread.join()
            if not self._ready and not self._timers:
                break
        self._protocol.ending.close(carrying)
        self.over = True

    def _other(self, function: Callable[[], None]) -> None:
        function()
        self._one_is_over()

    def _one_is_over(self) -> None:
        self._open -= 1
        if not self._open and self._stops_by_itself:
            self.stop()

    def _sampler(self) -> None:
        stands = None
        while not self.over:
            self.machine.sleep(TICK)
            try:
                if self.machine.fault is not None:  # else nothing may be left to repair
                    stands = self.carrying.check(stands)
                if (handler := self.carrying.handler) is not None:
                    self._protocol.excused.excuse(self.carrying, handler, None, moves=True)
                self._protocol.borrowing.remind(self.carrying)
                holder = self.carrying.holder
                if holder is None:
                    continue
                self.carrying.recall(self.machine.time)
                self.retake(holder)
            except Injected:
                self.carrying.repair()

    # ---------------------------------------------------------------- what a step can do

    def code(self, name: str) -> None:
        """Python of a step: nobody else may run any meanwhile."""
        self._begin(name)
        self.machine.point()
        self._end(name)

    def work(self, name: str, seconds: float = WORK) -> None:
        """The same, and it takes time."""
        self._begin(name)
        self.machine.work(seconds)
        self._end(name)

    def _begin(self, name: str) -> None:
        self.machine.check(self._executing is None, f"{name} and {self._executing} run at once")
        holder = self.carrying.holder
        mine = holder is not None and holder.ident == self.machine.current.ident
        self.machine.check(mine, f"{name} runs without the loop")
        self._executing, self._executor = name, self.machine.current

    def _end(self, name: str) -> None:
        self.machine.check(self._executing == name, f"{self._executing} has come in between {name}")
        self._executing = None

    def block(self, lwp: Any, until: Event, *, marked: bool = False, signals: bool = False) -> None:
        """A blocking call, declared or marked; and whether signals interrupt it."""
        if marked:
            try:
                self.carrying.mark(lwp)
            except Injected:
                self.carrying.hold_again(lwp)
                self.carrying.mark(lwp)  # the sampler finds a call that nobody has marked
        else:
            self._leave(lwp)
        if signals and lwp is self.carrying.home:
            self._in_call = True
            with contextlib.suppress(Injected):  # else a handler has broken the call off, and the step goes on
                self.machine.wait_interruptibly(lambda: until.is_set, -1, what="an event")
            self._in_call = False
        else:
            until.wait()
        self._rejoin(lwp)

    def suspend(self, lwp: Any, wait: Wait) -> None:
        """The step waits for what another one hands it."""
        wait.lwp = lwp
        while not wait.over:
            with self._or_hold(lwp):
                self._protocol.suspending.suspend(self.carrying, lwp, lambda: wait.over)
            lwp.interrupt = None  # else what is awaited is cancelled
        # The step that has handed it on may compute, and whoever was granted the loop by then.
        waited = self._fair_time() - wait.since
        self.machine.check(waited <= 3 * self._longest + 1e-9, f"{lwp.name} was handed the loop {waited:.4f} s ago")
        self._steps += 1
        self.code(f"what was suspended on {lwp.name}")

    def hand(self, lwp: Any, wait: Wait) -> None:
        """A step hands another one what it waits for, if it waits yet."""
        self.code(f"what hands on {lwp.name}")
        wait.over, wait.since = True, self._fair_time()
        if wait.lwp is not None:
            with self._or_hold(lwp):
                self._protocol.suspending.hand(self.carrying, wait.lwp)

    def yield_slice(self, lwp: Any) -> None:
        """A preempted step: others first."""
        with self._or_hold(lwp):
            self.carrying.leave(lwp, self.states.PREEMPTED)
            self.carrying.rejoin(lwp)
        self.code(f"what was preempted on {lwp.name}")

    def _leave(self, lwp: Any) -> None:
        """Leave the loop; if that fails, later: the sampler finds a call that nobody has seen."""
        for _ in range(2):
            with self._or_hold(lwp):
                if self.carrying.leave(lwp, self.states.BLOCKED):
                    self.carrying.replenish()
                    return

    @contextlib.contextmanager
    def _or_hold(self, lwp: Any) -> Iterator[None]:
        """What the reactions do about an exception: the step continues with the loop."""
        try:
            yield
        except Injected:
            self.carrying.hold_again(lwp)

    def _rejoin(self, lwp: Any) -> None:
        since = self._fair_time()
        ahead = self._returning
        self._returning += 1
        with self._or_hold(lwp):
            self.carrying.rejoin(lwp)
        lwp.interrupt = None  # else it comes up in the step
        self._returning -= 1
        # When the bound is over a step may be under way, and one that is ahead may compute, too.
        most = self._bounds[0] + (1 + ahead) * 2 * self._longest
        waited = self._fair_time() - since
        self.machine.check(waited <= most + 1e-9, f"{lwp.name} has waited for the loop for {waited:.4f} s")
        self._steps += 1
        self.code(f"what returns on {lwp.name}")

    def ask_home(self, lwp: Any) -> None:
        """Have the home do something, and wait for it as for any call."""
        if lwp is self.carrying.home:
            return
        letter = self.event()
        self._letters.append(letter)
        self._leave(lwp)
        with contextlib.suppress(Injected):  # else the exception goes up into the step
            self.carrying.mail_home()
            letter.wait()
        self._rejoin(lwp)

    def keep(self, lwp: Any, name: str) -> None:
        """A step comes up that only this LWP may run (``affinity.py``)."""

        def stays(runs_it: Any) -> None:
            orphaned = lwp.state is self.states.RETIRED
            self.machine.check(runs_it is lwp or orphaned, f"{name} runs on {runs_it.name}")

        if lwp.state is self.states.RETIRED:  # it was bound to an LWP that has ended by an exception
            self.step(name, lambda lwp: None)
        elif self.carrying.holder is lwp:
            self.step(name, stays)
        else:
            step = self._new(name, stays)
            try:
                self.carrying.keep(lwp, step)
            except Injected as exc:  # as Turns does
                self.fail(exc)
                if step not in lwp.bound_steps:
                    self._ready.append(step)
                self.carrying.regain(self.carrying.holder)

    def retake(self, lwp: Any) -> None:
        """Retake the loop from a marked call, if it still is one."""
        if self.carrying.leave(lwp, self.states.BLOCKED, lambda: lwp.state is self.states.MARKED):
            self.carrying.replenish()

    # ---------------------------------------------------------------- what is watched

    def _watch(self) -> None:
        """Whenever the mutex is let go."""
        carrying, states = self.carrying, self.states
        running = [lwp for lwp in carrying.lwps if lwp.state in (states.RUNNING, states.MARKED)]
        if running and running != [carrying.holder] and not self._broken_off():
            self.machine.fail(f"{running} run, and {carrying.holder} holds the loop")
        queues = [*carrying.pollers, *carrying.parked, *carrying.returning, *carrying.preempted]
        if len(queues) > 1 and len(queues) != len(set(queues)):
            self.machine.fail(f"somebody is in two queues: {queues}")
        home = carrying.home
        if home is None or home in carrying.detached or carrying.holder in (home, None):
            self._away = None
            return
        now = self._fair_time(home.thread)
        if self._away is None:
            self._away = now
        # The sampler looks a tick later; a step is under way then, and when the home has been told; a poke may be lost.
        most = self._bounds[1] + TICK + (3 + SPINS) * self._longest
        self.machine.check(now - self._away <= most + 1e-9, f"the home has waited for {now - self._away:.4f} s")

    def _broken_off(self) -> bool:
        """Whether an exception has broken off a move, which is about to be repaired."""
        return self.machine.fault is not None and self.machine.fault.raised

    def _fair_time(self, thread: Thread | None = None) -> float:
        """The time without that in which a thread that waits, or the sampler, could have run, and was not let."""
        starved = (thread or self.machine.current).starved
        return (
            self.machine.time
            - starved
            - sum(other.starved for other in self.machine.threads if other.name == "sampler")
        )

    # ---------------------------------------------------------------- host.Poll

    def wait(self, timeout: float | None) -> bool:
        if timeout == 0:
            self.machine.point()
        self._polls = self._polls + 1 if self._pipe or timeout == 0 else 0
        if self._polls > SPINS:
            self.machine.give_way()
        if not self._pipe and timeout != 0:
            self._pokes = 0  # whoever waits from now on hears the next one, or some of them
        if timeout != 0:
            self.machine.wait_interruptibly(lambda: self._pipe, -1 if timeout is None else timeout, what="events")
        events = self._pipe
        if not self.claimable:
            self._pipe = False
        return events

    # ---------------------------------------------------------------- host.Turns

    def timeout(self) -> float | None:
        carrying = self.carrying
        if self._ready or (carrying.stopping and self._protocol.order.can_stop(carrying)):
            return 0
        return self.until(self._timers[0]._when if self._timers else math.inf)

    def run(self, lwp: Any, events: bool) -> bool:
        try:
            return self._turn(lwp, events)
        except Injected as exc:
            if lwp is self.carrying.home:
                raise
            self.fail(exc)
            lwp.handle = None
            self.carrying.regain(lwp)
            return True

    def _turn(self, lwp: Any, events: bool) -> bool:
        self.machine.check(self.carrying.holder is lwp, f"{lwp.name} runs a batch without the loop")
        if events:
            self._pipe = False
        while self._timers and self._timers[0]._when <= self.machine.time:
            self._ready.append(heapq.heappop(self._timers).step)
        while lwp.bound_steps:
            self._ready.appendleft(lwp.bound_steps.pop())
        carrying = self.carrying
        if not carrying.batch_unfinished:
            carrying.batch = iter(range(len(self._ready)))
        for _ in carrying.batch:
            step = self._ready.popleft()
            lwp.handle = step
            self._run(lwp, *step)
            if lwp.slow_exit:
                self._after_step(lwp)
                lwp.handle = None
                return carrying.due is None or self.machine.time < carrying.due or carrying.boundary(lwp)
            if carrying.due is not None and self.machine.time >= carrying.due:
                lwp.handle = None
                if not carrying.boundary(lwp):
                    return False
        carrying.batch_unfinished = False
        lwp.handle = None
        return True

    def _run(self, lwp: Any, name: str, code: Code) -> None:
        self._runs[name] += 1
        self._steps += 1
        self._polls = 0
        self.code(name)
        code(lwp)
        self._begin(name)
        self._end(name)
        self._one_is_over()

    @staticmethod
    def _after_step(lwp: Any) -> None:
        lwp.slow_exit = lwp.lost_loop = False

    def has_input(self) -> bool:
        return self._pipe or (bool(self._timers) and self._timers[0]._when <= self.machine.time)

    def break_poll(self) -> None:
        self.machine.point()
        self._pipe = True
        self._pokes += 1
        if self._pokes > SPINS:
            self.machine.give_way()

    def until(self, deadline: float) -> float | None:
        return None if deadline == math.inf else max(deadline - self.machine.time, 0.0)

    def fail(self, exc: BaseException) -> None:
        self.failures.append(exc)
        self.carrying.stopping = True

    def orphaned(self, lwp: Any) -> None:
        while lwp.bound_steps:
            self._ready.appendleft(lwp.bound_steps.pop())

    # ---------------------------------------------------------------- host.Luggage

    def _equip(self, lwp: Any) -> None:
        lwp.watch, lwp.luggage = _Watch(self), _Luggage()

    def begin(self, lwp: Any) -> None:
        pass

    def detach(self, lwp: Any, *, with_step: bool) -> None:
        self.machine.check(
            with_step == (lwp in self.carrying.detached), f"{lwp.name} is detached, with_step={with_step}"
        )

    def attach(self, lwp: Any, *, with_step: bool) -> None:
        pass

    def resumed(self) -> None:
        pass

    def retires(self, lwp: Any) -> None:
        pass

    # ---------------------------------------------------------------- host.HomeSide

    def serve(self) -> None:
        home = self.carrying.home
        self.machine.check(home is None or home.ident == self.machine.current.ident, "a spare serves the home's mail")
        while self._letters:
            self._letters.pop().set()
        self._attend()

    def catch_up(self, home: Any) -> None:
        self.machine.check(self.carrying.holder is home, f"{home.name} catches up without the loop")
        self._handling.with_loop(home, self._call_noted)

    def passes_on(self, interrupt: BaseException) -> bool:
        return False

    def remind(self) -> None:
        """Nudge the home."""
        home, before = self._home, self._home.signal
        home.signal = self._attend if before is None else lambda: (before(), self._attend())  # type: ignore[func-returns-value]

    def heed(self) -> None:
        """Nor one that somebody has to read of."""

    # ---------------------------------------------------------------- host.Voice

    def started(self, lwp: Any) -> None:
        self.upcalls[UpcallKind.LWP_STARTED] += 1

    def retired(self, lwp: Any) -> None:
        self.upcalls[UpcallKind.LWP_RETIRED] += 1

    def exhausted(self, blocked: list[Any], home: Any) -> None:
        self.upcalls[UpcallKind.EXHAUSTED] += 1

    def refused(self, alive: int) -> None:
        pass

    def granted(self) -> None:
        pass

    def repaired(self) -> None:
        pass

    def closing(self, waits_for: list[Any], *, left: bool) -> None:
        pass

    def closed(self) -> None:
        pass


class _Timer:
    """A timer."""

    def __init__(self, when: float, serial: int, step: tuple[str, Code]) -> None:
        self._when = when
        self._serial = serial
        self.step = step

    def __lt__(self, other: _Timer) -> bool:
        return (self._when, self._serial) < (other._when, other._serial)


class _Watch:
    """What the detector keeps with an LWP, and whom it tells."""

    def __init__(self, loop: Loop) -> None:
        self.call = self.trap = None
        self.loop = loop
        self.reactions = self

    def settle(self, ident: int) -> None:
        pass

    def release(self) -> None:
        pass

    def interrupted(self) -> None:
        pass

    def in_call(self, call: object) -> Callable[[], bool]:
        return lambda: self.call is call

    def resume(self, lwp: Any, call: object) -> None:
        self.loop.carrying.rejoin(lwp)


class _Luggage:
    """What an LWP has of its loop's: nothing."""

    def settle(self, ident: int) -> None:
        pass

    def put_down(self) -> None:
        pass

    def outlives(self) -> bool:
        return False

    def thread_ends(self, thread: object) -> None:
        pass
