"""HybridLoop: the asyncio face of a loop that moves.

What makes it an event loop (transports, the poll) is its engine's (``engines/``), over which it is laid.  Replaced are
the parts that ask "which thread is this?": how the loop runs and ends (here; ``protocol/carrying.py`` decides which LWP
carries it), how a step is run (``turns.py``), and what goes along from thread to thread (``following/``).
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import signal
import sys
import types
import weakref
from asyncio import events
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

from .. import _core, detector, engines
from ..config import Config, Options, resolve
from ..detector.watch import Watch
from ..engines.base import Engine
from ..engines.handles import Step
from ..following import libraries, tasks
from ..following.compiled_following import following_class
from ..following.following import track
from ..following.luggage import Luggage
from ..observing.log import logger, say
from ..observing.stats import Stats
from ..observing.upcalls import Emitter
from ..platform.threads import os_ident
from ..protocol import ending
from ..protocol.compiled_carrying import carrying_class
from ..protocol.host import Host
from ..protocol.lwp import LWP, current
from ..reactions import affinity
from ..reactions.reactions import Reactions
from ..signals.handlers import Handling
from ..signals.home_side import HomeSide
from ..signals.mailbox import Mailbox
from ..signals.main_thread import main_thread
from ..signals.nudge import Nudges
from ..signals.shield import Shield
from . import forking, nesting, patched, sqlalchemy
from .awaiting import Awaiting, drive
from .compiled_turns import CompiledTurns
from .leaving import Leaving
from .turns import HANDLE_RUN, Turns

if TYPE_CHECKING:
    from ..engines.selector import SelectorEngine as _Engine  # to a type checker it is over some engine always
    from ..errors import BlockingCallError
else:
    _Engine = Engine

_abandoned: list[HybridLoop] = []
"""Loops that were closed without steps that are blocked."""


class HybridLoop(_Engine):
    """An asyncio event loop that survives blocking calls: it moves to another thread when a step blocks.

    Use it through :func:`hybridexec.run` or :func:`hybridexec.new_event_loop`.  Its methods are asyncio's, with
    asyncio's rules of thread-safety.

    Args:
        config: how it behaves; by default what the environment says (:meth:`Config.from_env`).
        **options: fields of :class:`Config`, which win over ``config``.

    Attributes:
        config: how it behaves.
        engine_name: the engine that it is laid over.

    Raises:
        TypeError: a wrong option, or one of a wrong type.
        ValueError: an option out of range.
        RuntimeError: uvloop is asked for, and cannot be imported; or threads are greenlets here (gevent, eventlet).
        DetectorUnavailableError: ``sys.monitoring`` is missing, or has no free tool id.
    """

    def __new__(cls, config: Config | None = None, **options: Unpack[Options]) -> Self:
        """Make a loop over the engine that is asked for."""
        made = engines.laid_over(cls, engines.engine(engines.asked_for(config, options)))
        return super(HybridLoop, made).__new__(made)  # type: ignore[no-any-return, misc]

    def __init__(self, config: Config | None = None, **options: Unpack[Options]) -> None:
        patched.check()
        self.config = resolve(config, options)
        if self.config.nested:
            nesting.allow()
        self._main: object = None  # what run_until_complete() was given: a task, or its coroutine
        self._failure: BaseException | None = None  # what ended the loop while a spare carried it
        self._announced = False
        self._assemble()
        detector.attach()
        try:
            super().__init__()
            carrying = self._carrying
            carrying.ready, carrying.timers, carrying.host.poll = self._ready, self._scheduled, self._poll
            forking.watch(self)
        except BaseException:
            detector.detach()
            self._unmake()
            raise

    def _assemble(self) -> None:
        """Make the parts of the loop, and let them know each other."""
        config, weak = self.config, cast(Any, weakref.proxy(self))  # weak: see _let_go()
        self._emitter = Emitter(config.instruments)
        carrying = self._carrying = carrying_class(
            claimable=self._claimable,
            max_lwps=config.max_lwps,
            spare_lwps=config.spare_lwps,
            idle_timeout=config.lwp_idle_timeout,
        )
        runners: tuple[Any, ...] = Turns._run_batch, CompiledTurns._run_batch, Turns._run_debug, HANDLE_RUN, drive
        runner_codes = frozenset(runner.__code__ for runner in runners)
        rooms = affinity.Affinity(carrying)
        reactions = self._reactions = Reactions(self, carrying, self._emitter, rooms, config, runner_codes)
        sampler = detector.sampler
        self._following = following_class(
            self,
            carrying,
            reactions.attributes,
            reactions.connections,
            rooms.rlocks,
            look=sampler.look,
            watch=lambda: sampler.watch(reactions, again=True),
        )
        self._turns = (CompiledTurns if self._compiled else Turns)(self, carrying, reactions, self._following)
        self._awaiting = Awaiting(weak, carrying)
        self._mailbox = Mailbox(carrying, lambda: weak._nudges.remind())
        handling = Handling(carrying, sampler.look, self._turns.after_step)
        callers = runner_codes | set(self._callers)
        shield = self._shield = Shield(callers, lambda exc: weak._put_off(exc), reactions.handle, handling)
        self._emitter.shielded = lambda: weak._shield.is_up()
        self._nudges = Nudges(carrying, shield, lambda *args: weak.call_later(*args), self._mailbox.serve)
        home_side = self._home_side = HomeSide(
            self, carrying, shield, self._mailbox, self._nudges, reactions.reporting.describe
        )
        self._leaving = Leaving(weak, carrying, lambda exc: weak._fail(exc), reactions.reporting.listing)
        carrying.host = Host(
            poll=cast(Any, None),  # the engine's, which is not there yet
            turns=self._turns,
            luggage=self._following,
            home_side=home_side,
            voice=reactions.reporting,
            equip=functools.partial(_equip, reactions),
        )

    @property
    def _stopping(self) -> bool:
        """asyncio's name for what the protocol looks at."""
        return self._carrying.stopping

    @_stopping.setter
    def _stopping(self, stopping: bool) -> None:
        self._carrying.stopping = stopping

    # ---------------------------------------------------------------- asyncio's methods

    def run_forever(self) -> None:
        """Run until :meth:`stop` is called, on whichever LWP; it returns on this thread."""
        self._check_closed()
        self._check_running()
        patched.check()
        if not self._announced:
            self._announce()
        hooks = sys.get_asyncgen_hooks()
        try:
            waker = self._csock.fileno()
            self._leaving.run_begins()
            with main_thread(self._mailbox, self._nudges, waker, self._shield, self._signal_handlers):
                try:
                    self._run_here()
                finally:
                    self._end_run(hooks)
        except BaseException as exc:
            self._fail(exc)
        finally:
            if self._carrying.home is not None or events._get_running_loop() is self:
                self._end_run(hooks)  # the first try was broken off
            self._stopping = False
        failure, self._failure = self._failure, None
        self._leaving.run_ended(failure)
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # a traceback keeps this frame

    def run_until_complete(self, future: Any) -> Any:
        """Run until a future is done; to signal handlers that raise, its task is the main task."""
        if nesting.is_allowed(events._get_running_loop()):
            return nesting.run(self, future)
        former, self._main = self._main, future
        try:
            return super().run_until_complete(future)
        finally:
            self._main = former

    @property
    def _nest_patched(self) -> bool:
        """To nest_asyncio: that it has nothing left to do here (``nesting.py``)."""
        if not nesting.applied():
            raise AttributeError("_nest_patched")
        return True

    def _announce(self) -> None:
        """Say once which loop runs: a server that has taken another one than it was told to does not."""
        self._announced = True
        if (missing := _core.complaint()) is not None:
            say(logging.WARNING, "%s", missing)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "%s at %#x runs: engine %s, core %s, mode %s, tool id %d of sys.monitoring",
                type(self).__name__,
                id(self),
                self.engine_name,
                _core.name,
                self.config.mode,
                detector.tool.id,
            )

    def _run_here(self) -> None:
        """The calling thread is the home, until the loop stops."""
        carrying = self._carrying
        try:
            lwp = carrying.begin()
            detector.sampler.watch(self._reactions)
            self._following.settle(lwp)
            self._reactions.affinity.greenlets.begin()
            self._following.begin(lwp)
            carrying.carry(lwp)
            self._run_ends()
        except BaseException as exc:
            self._fail(exc)
            home = carrying.home
            if home is not None:
                self._try(lambda: self._turns.drop_step(home))

    def _end_run(self, hooks: Any) -> None:
        """The home stops the loop, and its thread is as it was.  Whatever one part raises, the others are done."""
        carrying = self._carrying
        home = carrying.home
        self._thread_id = None
        if home is not None:
            self._try(lambda: carrying.finish(home))
            self._try(lambda: self._raise_interrupt(home))
            self._try(lambda: track(home, False))
        self._try(self._reactions.alarms.forget)
        self._try(lambda: events._set_running_loop(None))
        self._try(lambda: sys.set_asyncgen_hooks(*hooks))
        self._try(lambda: detector.sampler.unwatch(self._reactions))

    def _raise_interrupt(self, home: LWP) -> None:
        """The home has stopped the loop before it could raise what a signal handler has raised."""
        interrupt, home.interrupt = home.interrupt, None
        if interrupt is not None:
            self._fail(interrupt)

    def _try(self, part: Callable[[], object]) -> None:
        """Do a part of the end of a run.  One that raises is tried once more, and the others are done in any case."""
        for _ in range(2):
            try:
                part()
                return
            except BaseException as exc:
                self._fail(exc)

    def close(self) -> None:
        """Close the loop; waits for steps that are still blocked, and says so in the log after a second.

        Raises:
            RuntimeError: the loop is running, or it is closed by a step of its own, which it would wait for.
        """
        lwp = current.get(os_ident())
        while lwp is not None and lwp.carrying is not self._carrying:
            lwp = lwp.outer
        running = self._carrying.home is not None and not self._carrying.is_forked()
        if running or lwp is not None:
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        try:
            self._drain()
        except Exception as exc:  # no LWP may be left; what interrupts the wait for them is another matter
            self._fail(exc)
            self._drain()
        self._following.rlocks.follow(os_ident())
        self._carrying.deferred.clear()
        self._thread_id = None  # steps that were blocked have finished meanwhile
        self._stopping = False
        super().close()
        if self._leaving.left:
            _abandoned.append(self)  # their threads refer to it, and the detector holds them when their calls return
        else:
            detector.detach()
        self._following.values = None
        self._let_go()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _let_go(self) -> None:
        """The parts of a closed loop refer to it weakly: with its last user it is freed at once, as asyncio's is."""
        weak: Any = weakref.proxy(self)
        ending.loosen(self._carrying)
        for part in (self._reactions, self._following, self._turns, self._home_side):
            part.loosen(weak)

    def _drain(self) -> None:
        """Have the steps that are still blocked finish; what they block in once more is looked for, as ever."""
        try:
            if self._carrying.detached:
                detector.sampler.watch(self._reactions)
            self._awaiting.abandon()
            ending.close(self._carrying)
        finally:
            detector.sampler.unwatch(self._reactions)  # a signal handler may have kept run_forever() from it

    def stop(self) -> None:
        """Stop the loop after the callbacks that are ready now."""
        super().stop()
        self._awaiting.stopping()
        if self._carrying.holder_ident != os_ident():
            self._write_to_self()

    def stats(self) -> Stats:
        """A snapshot of what the loop has done.  Any thread may ask."""
        carrying = self._carrying
        with carrying.mutex:
            return Stats(
                upcalls=types.MappingProxyType(self._emitter.counts()),
                handoffs=carrying.handoffs - carrying.awaits,
                awaits=carrying.awaits,
                claims=carrying.claims,
                wakeups=carrying.wakeups,
                lwps_alive=len(carrying.lwps),
                lwps_parked=len(carrying.parked),
                lwps_blocked=len(carrying.detached - carrying.awaiting.keys()),
                longest_block=self._emitter.tally.longest,
                frozen_time=self._emitter.tally.total,
                instrument_failures=self._emitter.failures(),
                instruments_dropped=self._emitter.dropped(),
                core=_core.name,
            )

    def _adopt(self, config: Config) -> None:
        """Take over another configuration's mode, threshold and preemption; the rest of it is not looked at.

        For test tools, which have loops that outlive a test.

        Raises:
            RuntimeError: the loop is running.
        """
        self._check_running()
        self.config = dataclasses.replace(
            self.config, mode=config.mode, threshold=config.threshold, preempt=config.preempt
        )
        self._reactions.adopt(config)

    def _when_refused(self, tell: Callable[[BlockingCallError], object]) -> None:
        """Have a function called with each exception that mode "raise" raises, before it is raised.

        For test tools: the program may swallow it.  It is called in the step that blocks, and must not raise.
        """
        self._reactions.reporting.when_refused = tell

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """Add a handler for a signal; wherever the loop is carried now, its home does it."""
        self._mailbox.at_home(functools.partial(super().add_signal_handler, sig, callback, *args))

    def remove_signal_handler(self, sig: int) -> bool:
        """Remove a handler for a signal; wherever the loop is carried now, its home does it."""
        remove = super().remove_signal_handler

        def at_home() -> bool:
            removed = bool(remove(sig))
            if removed and not self._signal_handlers and self._carrying.home is not None:
                signal.set_wakeup_fd(self._csock.fileno(), warn_on_full_buffer=False)  # by it signals end the poll
            return removed

        return bool(self._mailbox.at_home(at_home))

    def _process_self_data(self, data: bytes) -> None:
        super()._process_self_data(data)
        self._nudges.came(data)
        if signal.SIGINT in data:
            self._leaving.asked()

    def set_debug(self, enabled: bool) -> None:
        """Set debug mode."""
        self._debug = enabled
        lwp = self._carrying.holder
        if lwp is not None and lwp.ident == os_ident():
            track(lwp, enabled)  # the others do so when they carry the loop the next time

    def _forked(self) -> None:
        """This process is a child of the one that the loop's LWPs live in."""
        ending.fork(self._carrying)
        self._following.rlocks.forked()
        self._shield.forked()
        self._thread_id = None
        if not self._closed:
            self._abandon()

    # ---------------------------------------------------------------- what the executor asks

    def _enqueue(self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None = None) -> None:
        """Make a step ready, from any thread, and wake nobody for it."""
        self._ready.append(Step(callback, args, self, context))

    def _hail(self) -> None:
        """Something was enqueued: have a parked LWP take the loop if it is free; else end the poll."""
        if not self._carrying.hail():
            self._write_to_self()

    def _is_carried_here(self) -> bool:
        """Whether the calling thread carries the loop."""
        return self._carrying.holder_ident == os_ident()

    def _is_busy(self) -> bool:
        """Whether somebody executes on the loop, or nobody can, as far as can be told."""
        return bool(self._carrying.holder_ident or self._carrying.exhausted)

    def _initialize_lwps(self, initialize: Callable[[], object]) -> None:
        """Have each new LWP call something first."""
        self._carrying.pool.initialize = initialize

    def _lwps(self) -> list[LWP]:
        """The LWPs that there are."""
        with self._carrying.mutex:
            return list(self._carrying.lwps)

    # ---------------------------------------------------------------- what ends the run

    def _put_off(self, exc: BaseException) -> None:
        """A signal handler has raised in the middle of the protocol: the home raises it."""
        if self._carrying.home is None:
            self._fail(exc)  # the loop is about to begin, or to end
        else:
            self._carrying.interrupt_home(exc)
            detector.sampler.look()

    def _fail(self, exc: BaseException) -> None:
        """An exception that ends the loop, on a spare maybe: the home raises it out of ``run_forever``."""
        if self._failure is None:
            self._failure = exc
        elif exc is not self._failure:  # it may come by several ways: from the task, and from who awaits it
            say(logging.ERROR, "another exception while the loop ends", exc=exc)
        self._stopping = True


def _equip(reactions: Reactions, lwp: LWP) -> None:
    """Fill the pockets of a new LWP."""
    lwp.watch, lwp.luggage = Watch(reactions), Luggage()


tasks.replace(HybridLoop)
for _name, _see_to in {**libraries.WHEN_IMPORTED, **sqlalchemy.WHEN_IMPORTED}.items():
    detector.catalogue.when_imported(_name, _see_to)
