"""HybridLoop: the asyncio face of a loop that moves.

What makes it an event loop (transports, the poll) is its engine's (``engines/``), over which it is laid.  Replaced are
the parts that ask "which thread is this?": how the loop runs and ends (here; ``carrying.py`` decides which LWP carries
it), how a step is run (``turns.py``), and what goes along from thread to thread (``following/``).
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
from typing import TYPE_CHECKING, Any, Self

from . import affinity, detector, engines, forking, home, libraries, nesting, patched, tasks
from .carrying import Carrying
from .config import Config, resolve
from .following.following import Following, track
from .handling import Handling
from .identity import os_ident
from .leaving import Leaving
from .log import logger, say
from .lwp import LWP, current
from .reactions import Reactions
from .shield import Shield
from .stats import Stats
from .turns import HANDLE_RUN, Turns
from .upcalls import Emitter

if TYPE_CHECKING:
    from .errors import BlockingCallError

_abandoned: list[HybridLoop] = []
"""Loops that were closed without steps that are blocked."""


class HybridLoop(Turns):
    """An asyncio event loop that survives blocking calls: it moves to another thread when a step blocks.

    Use it through :func:`hybridexec.run` or :func:`hybridexec.new_event_loop`.  Its methods are asyncio's, with
    asyncio's rules of thread-safety.

    Args:
        config: how it behaves; by default what the environment says (:meth:`Config.from_env`).
        **options: fields of :class:`Config`, which win over ``config``.

    Raises:
        TypeError: a wrong option, or one of a wrong type.
        ValueError: an option out of range.
        RuntimeError: uvloop is asked for, and cannot be imported; or threads are greenlets here (gevent, eventlet).
        DetectorUnavailableError: ``sys.monitoring`` is missing, or has no free tool id.
    """

    def __new__(cls, config: Config | None = None, **options: Any) -> Self:
        """Make a loop over the engine that is asked for."""
        made = engines.laid_over(cls, engines.engine(engines.asked_for(config, options)))
        return super(HybridLoop, made).__new__(made)  # type: ignore[no-any-return, misc]

    def __init__(self, config: Config | None = None, **options: Any) -> None:
        patched.check()
        self.config = resolve(config, options)
        self._emitter = Emitter(self.config.instruments)
        self._carrying = Carrying(
            self,
            max_lwps=self.config.max_lwps,
            spare_lwps=self.config.spare_lwps,
            idle_timeout=self.config.lwp_idle_timeout,
        )
        self._affinity = affinity.Affinity(self._carrying)
        self._reactions = Reactions(self, self._carrying, self._emitter, self._affinity, self.config)
        self._carrying.reactions = self._reactions
        self._following = Following(self, self._carrying, self._reactions)
        runners: tuple[Any, ...] = type(self)._run_batch, type(self)._run_debug, HANDLE_RUN
        self._carrying.runner_codes = frozenset(runner.__code__ for runner in runners)
        weak: Any = weakref.proxy(self)  # see _let_go(); these are seldom called
        self._mailbox = home.Mailbox(self._carrying, lambda: weak.remind())
        handling = Handling(self._carrying, detector.sampler.look)
        callers = self._carrying.runner_codes | set(self.callers)
        self.shield = Shield(callers, lambda exc: weak._put_off(exc), self._reactions.handle, handling)
        self._emitter.shielded = lambda: weak.shield.is_up()
        self.catch_up = self.shield.catch_up
        self._nudges = home.Nudges(
            self._carrying, self.shield, lambda *args: weak.call_later(*args), self._mailbox.serve
        )
        self._leaving = Leaving(weak, self._carrying, lambda exc: weak._fail(exc))
        self._main: object = None  # what run_until_complete() was given: a task, or its coroutine
        self._failure: BaseException | None = None  # what ended the loop while a spare carried it
        self._announced = False
        # What else the protocol asks (face.Face) it asks those whose matter it is, with no call in between.
        following, telling = self._following, self._reactions.telling
        self.taken, self.gives, self.follow = following.taken, following.gives, following.follow
        self.retires, self.started = following.retires, following.started
        self.describe, self.stuck, self.notice = telling.describe, telling.stuck, telling.notice
        self.places = telling.places
        detector.attach()
        try:
            super().__init__()
        except BaseException:
            detector.detach()
            self.unmake()
            raise
        forking.watch(self)

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
            with home.main_thread(self._mailbox, self._nudges, waker, self.shield, self._signal_handlers):
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
        if nesting.applied() and events._get_running_loop() is not None:
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
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "%s at %#x runs: engine %s, mode %s, tool id %d of sys.monitoring",
                type(self).__name__,
                id(self),
                self.engine_name,
                self.config.mode,
                detector.tool.id,
            )

    def _run_here(self) -> None:
        """The calling thread is the home, until the loop stops."""
        carrying = self._carrying
        try:
            lwp = carrying.begin()
            detector.sampler.watch(carrying)
            self._following.settle(lwp)
            self._affinity.greenlets.begin()
            self.started(lwp)
            carrying.carry(lwp)
            self.stopped()
        except BaseException as exc:
            self._fail(exc)
            home = carrying.home
            if home is not None:
                self._try(lambda: self._drop_step(home))

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
        self._try(lambda: detector.sampler.unwatch(carrying))

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
        self._deferred.clear()
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
        self._carrying.loosen(weak)
        self._reactions.loosen(weak)
        self._following.loosen(weak)

    def _drain(self) -> None:
        """Have the steps that are still blocked finish; what they block in once more is looked for, as ever."""
        try:
            if self._carrying.detached:
                detector.sampler.watch(self._carrying)
            self._carrying.close()
        finally:
            detector.sampler.unwatch(self._carrying)  # a signal handler may have kept run_forever() from it

    def stop(self) -> None:
        """Stop the loop after the callbacks that are ready now."""
        super().stop()
        if self._carrying.holder_ident != os_ident():
            self._write_to_self()

    def stats(self) -> Stats:
        """A snapshot of what the loop has done.  Any thread may ask."""
        carrying = self._carrying
        with carrying.mutex:
            return Stats(
                upcalls=types.MappingProxyType(self._emitter.counts()),
                handoffs=carrying.handoffs,
                claims=carrying.claims,
                wakeups=carrying.wakeups,
                lwps_alive=len(carrying.lwps),
                lwps_parked=len(carrying.parked),
                lwps_blocked=len(carrying.detached),
                longest_block=self._reactions.telling.longest,
                frozen_time=self._reactions.telling.total,
                instrument_failures=self._emitter.failures(),
                instruments_dropped=self._emitter.dropped(),
            )

    def adopt(self, config: Config) -> None:
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

    def when_refused(self, tell: Callable[[BlockingCallError], object]) -> None:
        """Have a function called with each exception that mode "raise" raises, before it is raised.

        For test tools: the program may swallow it.  It is called in the step that blocks, and must not raise.
        """
        self._reactions.telling.when_refused = tell

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

    def forked(self) -> None:
        """This process is a child of the one that the loop's LWPs live in."""
        self._carrying.forked()
        self._following.rlocks.forked()
        self.shield.forked()
        self._thread_id = None
        if not self._closed:
            self.abandon()

    # ---------------------------------------------------------------- what the protocol asks (face.Face)

    def serve(self) -> None:
        """Do what others have asked of the home."""
        self._mailbox.serve()
        self.shield.attend(sys._getframe())

    def passes_on(self, interrupt: BaseException) -> bool:
        """A signal handler has raised while the home has no step: a main task that is blocked elsewhere may have it."""
        lwp = home.blocked_main(self._carrying, self._main)
        if lwp is None:
            return False
        waiting = lwp.interrupt
        passed = waiting is None
        lwp.interrupt = interrupt if passed else None
        if not passed:  # both come out of the run, or nobody could ever end it
            interrupt.__context__ = interrupt.__context__ or waiting
        said = home.PASSED_ON if passed else home.GIVEN_UP
        # Said in a step: who is blocked may have a lock of logging's.
        self.call_soon(say, logging.WARNING, said, type(interrupt).__name__, lwp.name, self.describe(lwp))
        return passed

    def remind(self) -> None:
        """The home's step has to raise what was put off, or to do what others have asked for."""
        self._nudges.remind()

    def heed(self) -> None:
        """The home is blocked, and the loop maybe busy: look for signals without reading of them."""
        self._nudges.heed(self._ssock)

    # ---------------------------------------------------------------- what ends the run

    def _put_off(self, exc: BaseException) -> None:
        """A signal handler has raised in the middle of the protocol: the home raises it."""
        if self._carrying.home is None:
            self._fail(exc)  # the loop is about to begin, or to end
        else:
            self._carrying.interrupted(exc)
            detector.sampler.look()

    def _fail(self, exc: BaseException) -> None:
        """An exception that ends the loop, on a spare maybe: the home raises it out of ``run_forever``."""
        if self._failure is None:
            self._failure = exc
        elif exc is not self._failure:  # it may come by several ways: from the task, and from who awaits it
            say(logging.ERROR, "another exception while the loop ends", exc=exc)
        self._stopping = True

    failed = _fail


tasks.replace(HybridLoop)
libraries.watch()
