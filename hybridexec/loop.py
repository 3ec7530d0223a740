"""HybridLoop: the asyncio face of a loop that moves.

What makes it an event loop (transports, the poll) is its engine's (``engines/``), over which it is laid.  Replaced are
the parts that ask "which thread is this?": how the loop runs (``carrying.py`` decides which LWP does), how a step is
run, and how one wakes a loop that polls.  A *turn* is what asyncio calls ``_run_once``, less the poll.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import dataclasses
import functools
import heapq
import logging
import math
import signal
import sys
import types
from asyncio import Handle, base_events, constants, events
from asyncio.base_events import _format_handle  # type: ignore[attr-defined]
from asyncio.format_helpers import _format_callback_source
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from . import affinity, children, detector, engines, forking, home, rlocks, tasks, thread_locals
from .base import Engine
from .carrying import Carrying
from .config import Config, resolve
from .engines.handles import FdHandle, FdState, Step
from .identity import get_ident, os_ident
from .lwp import LWP, Region, current
from .reactions import Reactions
from .shield import Shield
from .stats import Stats
from .tracers import Tracers
from .transports import Conversations
from .upcalls import Emitter, logger

if TYPE_CHECKING:
    from .engines.selector import SelectorEngine as _Engine  # to a type checker it is over some engine always
    from .errors import BlockingCallError
else:
    _Engine = Engine

# When to sweep out cancelled timers.  A server cancels the oldest ones all the time (keep-alive), and to take these off
# the heap one by one costs more than to make it anew: so this is sooner than asyncio does.
_MIN_CANCELLED_TIMERS = 30
_CANCELLED_FRACTION = 0.25
_MAX_TIMEOUT = 24 * 3600.0

# Before 3.14 the current task is a property of the loop, so a step that leaves takes it along; since 3.14 it is one of
# the thread, and stays with it.
_current_tasks: dict[Any, Any] | None = None
if sys.version_info < (3, 14):
    _current_tasks = asyncio.tasks._current_tasks  # type: ignore[attr-defined]


_classes: dict[tuple[type, type], type] = {}


def _laid_over(cls: type, engine: type[Engine]) -> type:
    """A class of loops over an engine.  It bears the class's name: to a program it is that class."""
    if issubclass(cls, engine):
        return cls
    made = _classes.get((cls, engine))
    if made is None:
        about = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        made = _classes.setdefault((cls, engine), type(cls.__name__, (cls, engine), about))
    return made


class HybridLoop(_Engine):
    """An asyncio event loop that survives blocking calls: it moves to another thread when a step blocks.

    Use it through :func:`hybridexec.run` or :func:`hybridexec.new_event_loop`.  Its methods are asyncio's, with
    asyncio's rules of thread-safety.

    Args:
        config: how it behaves; by default what the environment says (:meth:`Config.from_env`).
        **options: fields of :class:`Config`, which win over ``config``.

    Raises:
        TypeError: a wrong option, or one of a wrong type.
        ValueError: an option out of range.
        RuntimeError: uvloop is asked for, and cannot be imported.
        DetectorUnavailableError: ``sys.monitoring`` is missing, or has no free tool id.
    """

    def __new__(cls, config: Config | None = None, **options: Any) -> Self:
        """Make a loop over the engine that is asked for."""
        made = _laid_over(cls, engines.engine(engines.asked_for(config, options)))
        return super(HybridLoop, made).__new__(made)  # type: ignore[no-any-return, misc]

    def __init__(self, config: Config | None = None, **options: Any) -> None:
        self.config = resolve(config, options)
        self._emitter = Emitter(self.config.instruments)
        self._carrying = Carrying(
            self,
            max_lwps=self.config.max_lwps,
            spare_lwps=self.config.spare_lwps,
            idle_timeout=self.config.lwp_idle_timeout,
        )
        self._affinity = affinity.Affinity(self._carrying)
        self._rlocks = self._affinity.rlocks
        self._reactions = Reactions(self, self._carrying, self._emitter, self._affinity, self.config)
        self._carrying.reactions = self._reactions
        telling = self._reactions.telling
        self.describe, self.stuck, self.notice = telling.describe, telling.stuck, telling.notice
        runners: tuple[Any, ...] = type(self)._run_batch, type(self)._run_debug, Handle._run
        self._carrying.runner_codes = frozenset(runner.__code__ for runner in runners)
        self._mailbox = home.Mailbox(self._carrying)
        self._tracers = Tracers()
        self.shield = Shield(self._carrying.runner_codes | set(self.callers), self._put_off)
        self._nudges = home.Nudges(self._carrying, self.shield, self.call_later)
        self._conversations = Conversations()
        self._batch: Any = iter(range(0))  # a number for each step that is still to be run before the next poll
        self._deferred: list[asyncio.Handle] = []  # steps that have to wait for one that blocks
        self._values: thread_locals.Values | None = None  # the home's thread-locals
        self._main: object = None  # what run_until_complete() was given: a task, or its coroutine
        self._failure: BaseException | None = None  # what ended the loop while a spare carried it
        self._announced = False
        detector.attach()
        try:
            super().__init__()
        except BaseException:
            detector.detach()
            raise
        forking.watch(self)

    # ---------------------------------------------------------------- asyncio's methods

    def run_forever(self) -> None:
        """Run until :meth:`stop` is called, on whichever LWP; it returns on this thread."""
        self._check_closed()
        self._check_running()
        if not self._announced:
            self._announce()
        try:
            waker = self._csock.fileno()
            with home.main_thread(self._mailbox, self._nudges, waker, self.shield, self._signal_handlers):
                self._run_here()
        except BaseException as exc:
            self._fail(exc)
        finally:
            self._stopping = False
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # a traceback keeps this frame

    def run_until_complete(self, future: Any) -> Any:
        """Run until a future is done; to signal handlers that raise, its task is the main task."""
        former, self._main = self._main, future
        try:
            return super().run_until_complete(future)
        finally:
            self._main = former

    def _announce(self) -> None:
        """Say once which loop runs: a server that has taken another one than it was told to does not."""
        self._announced = True
        if logger.isEnabledFor(logging.INFO):
            logger.info(
                "%s at %#x runs: engine %s, mode %s, tool id %d of sys.monitoring",
                type(self).__name__,
                id(self),
                self.engine_name,
                self.config.mode,
                detector.tool.id,
            )

    def _run_here(self) -> None:
        """The calling thread is the home, until the loop stops."""
        hooks = sys.get_asyncgen_hooks()
        carrying = self._carrying
        lwp = carrying.begin()
        try:
            detector.sampler.watch(carrying)
            self._settle(lwp)
            self.started(lwp)
            try:
                carrying.carry(lwp)
                self.stopped()
            except BaseException:
                carrying.regain(lwp)
                raise
        finally:
            self._thread_id = None
            carrying.finish(lwp)
            if lwp.interrupt is not None:
                self._fail(lwp.interrupt)
                lwp.interrupt = None
            events._set_running_loop(None)
            self._track(lwp, False)
            sys.set_asyncgen_hooks(*hooks)
            detector.sampler.unwatch(carrying)

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
        self._drain()
        self._rlocks.follow(os_ident())
        self._deferred.clear()
        self._thread_id = None  # steps that were blocked have finished meanwhile
        self._stopping = False
        super().close()
        detector.detach()
        self._values = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _drain(self) -> None:
        """Have the steps that are still blocked finish; what they block in once more is looked for, as ever."""
        try:
            if self._carrying.detached:
                try:
                    detector.sampler.watch(self._carrying)
                except RuntimeError as exc:  # the system has no thread to give
                    logger.error("a loop is closed without the sampler (%s)", exc)
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

    def set_debug(self, enabled: bool) -> None:
        """Set debug mode."""
        self._debug = enabled
        lwp = self._carrying.holder
        if lwp is not None and lwp.ident == os_ident():
            self._track(lwp, enabled)  # the others do so when they carry the loop the next time

    def forked(self) -> None:
        """This process is a child of the one that the loop's LWPs live in."""
        self._carrying.forked()
        self._rlocks.forked()
        self.shield.forked()
        self._thread_id = None
        if not self._closed:
            self.abandon()

    # ---------------------------------------------------------------- what the protocol asks (face.Face)

    def timeout(self) -> float | None:
        """Sweep cancelled timers, and say how long the poll may last."""
        scheduled = self._scheduled
        count = len(scheduled)
        if count > _MIN_CANCELLED_TIMERS and self._timer_cancelled_count / count > _CANCELLED_FRACTION:
            kept = []
            for handle in scheduled:
                if handle._cancelled:
                    handle._scheduled = False
                else:
                    kept.append(handle)
            heapq.heapify(kept)
            self._scheduled = scheduled = kept
            self._timer_cancelled_count = 0
        else:
            while scheduled and scheduled[0]._cancelled:
                self._timer_cancelled_count -= 1
                heapq.heappop(scheduled)._scheduled = False
        if self._ready or (self._stopping and self._carrying.can_stop()):
            return 0
        if scheduled:
            return float(min(max(scheduled[0]._when - self.time(), 0), _MAX_TIMEOUT))
        return None

    def turn(self, lwp: LWP, event_list: Any) -> bool:
        """Handle events and due timers, then run what was ready by then."""
        if event_list:
            self.dispatch(event_list)
            event_list = None  # break cycles, as asyncio does
        scheduled = self._scheduled
        ready = self._ready
        if scheduled:
            end_time = self.time() + self._clock_resolution
            while scheduled and scheduled[0]._when < end_time:
                handle = heapq.heappop(scheduled)
                handle._scheduled = False
                ready.append(handle)
        if lwp.kept:
            ready.extendleft(reversed(lwp.kept))
            lwp.kept.clear()
        try:
            return self._run_batch(lwp)
        except BaseException as exc:  # asyncio raises it out of run_forever(), and so does the home
            if lwp is self._carrying.home or self._carrying.is_forked():
                raise
            lwp.handle = None
            self._fail(exc)
            return True

    def _run_batch(self, lwp: LWP) -> bool:
        """Run the callbacks that are ready now; whether the LWP holds the loop afterwards."""
        ready: collections.deque[Any] = self._ready
        carrying = self._carrying
        if not carrying.amid:
            self._batch = iter(range(len(ready)))
        batch = self._batch
        # None of these changes during a batch but by a step that ends it, or raises the alert.
        careful = self._careful()
        debug = self._debug
        if debug is not (lwp.tracking is not None):
            self._track(lwp, debug)
        step: Any = Step
        plain: Any = Handle
        of_fd: Any = FdHandle
        idle, taken_out = FdState.IDLE, FdState.TAKEN_OUT
        for _ in batch:
            handle = ready.popleft()
            if handle._cancelled:
                continue
            if careful and not self._may_run(lwp, handle):
                continue
            lwp.handle = handle
            try:
                if debug:
                    self._run_debug(handle)
                elif (kind := handle.__class__) is step or kind is plain:
                    # Inline, so that this frame, and not asyncio's, is the innermost one of a callback in C.
                    handle._context.run(handle._callback, *handle._args)
                elif kind is of_fd:  # it has its turn: now it is to be called again if its descriptor is ready
                    if handle.state is taken_out:
                        self.put_back(handle)
                    handle.state = idle
                    handle._context.run(handle._callback, *handle._args)
                else:
                    handle._run()
            except (SystemExit, KeyboardInterrupt):
                self._hold(lwp)
                raise
            except BaseException as exc:
                if not self._hold(lwp):
                    self._report(handle, exc)
            # Whoever keeps a traceback of the step keeps this frame, too: it is not to keep the step.
            handle = None
            if lwp.alert:
                if self._after_step(lwp):
                    # The loop has moved meanwhile: this may be another batch by now.
                    return carrying.due is None or monotonic() < carrying.due or carrying.boundary(lwp)
                careful = self._careful()
            if carrying.due is not None and monotonic() >= carrying.due:
                lwp.handle = None
                if not carrying.boundary(lwp):
                    return False
        carrying.amid = False
        lwp.handle = handle = None
        return True

    def _careful(self) -> bool:
        """Whether a step has to be looked at before it is run."""
        return bool(self._carrying.detached) or bool(self._affinity.bound) or self._reactions.preempt is not None

    def _may_run(self, lwp: LWP, handle: Any) -> bool:
        """Whether a step may run now, on this LWP; if not, it has been put where it belongs."""
        if self._affinity.bound and not self._affinity.may_run(lwp, handle):
            return False
        if self._carrying.detached and (self._conversations.concerns(handle) or _entered(handle._context)):
            # A step that is without the loop: this one is run when that one is over.
            self._deferred.append(handle)
            return False
        if self._reactions.preempt is not None:
            lwp.began = monotonic()
        return True

    def unfinished(self) -> bool:
        """Whether steps of a batch are still to be run."""
        return bool(self._batch.__length_hint__())

    def has_work(self) -> bool:
        """Whether something is ready to run."""
        return bool(self._ready) or self._stopping

    def has_input(self) -> bool:
        """Whether a timer is due, or a file descriptor is registered that may have become ready."""
        return self.next_timer() <= self.time() or super().has_input()

    def next_timer(self) -> float:
        """When the earliest timer is due, in the loop's time."""
        try:
            return float(self._scheduled[0]._when)
        except IndexError:
            return math.inf

    def until(self, deadline: float) -> float | None:
        """The timeout of a poll that lasts until ``deadline``."""
        return None if deadline == math.inf else min(max(deadline - self.time(), 0.0), _MAX_TIMEOUT)

    def poke(self) -> None:
        """End somebody's poll."""
        self._write_to_self()

    def stopping(self) -> bool:
        """Whether the loop shall stop."""
        return self._stopping

    def taken(self, lwp: LWP) -> None:
        """The LWP holds the loop."""
        self._thread_id = lwp.identity
        if lwp.wardrobe.worn is not self._values and lwp.handle is None:
            self._dress(lwp)
        if self._rlocks.held:
            self._rlocks.follow(lwp.ident)
            lwp.affine = lwp.alert = True
        detector.sampler.look()

    def _dress(self, lwp: LWP) -> None:
        """Give an LWP that is between two steps the home's thread-locals, and its identity."""
        if lwp is not self._carrying.home:
            lwp.wardrobe.wear(self._values)
            self._thread_id = lwp.identity = get_ident()

    def gives(self, lwp: LWP) -> None:
        """The LWP is about to give the loop up."""
        self._tracers.given(lwp)

    def follow(self, lwp: LWP) -> None:
        """The LWP has the loop from another one, or may have."""
        refused = self._reactions.attributes.taken(lwp)
        if refused is not None:  # said in a step: the mutex is held
            self.call_soon(logger.error, "an LWP cannot have the loop's affinity and priority: %s", refused)
        self._tracers.taken(lwp)

    def left(self, lwp: LWP) -> None:
        """The LWP's step is without the loop."""
        handle = lwp.handle
        if handle.__class__ is FdHandle:
            handle.left()
        self._conversations.left(lwp)
        if _current_tasks is not None:
            lwp.task = _current_tasks.pop(self, None)
        if thread_locals.IN_DICTIONARY:
            lwp.wardrobe.left(self._values)
        if self._rlocks.held:
            self._rlocks.follow(rlocks.NOBODY)

    def retires(self, lwp: LWP) -> None:
        """The LWP is about to end."""
        self._rlocks.retires(lwp.ident)
        lwp.children = children.living()

    def returned(self, lwp: LWP) -> None:
        """The LWP's step has the loop again."""
        self._conversations.returned(lwp)
        if _current_tasks is not None and lwp.task is not None:
            _current_tasks[self] = lwp.task
            lwp.task = None
        if thread_locals.IN_DICTIONARY:
            lwp.wardrobe.join()
            lwp.wardrobe.returned(self._values)
            if self._carrying.home is None:  # it drains, and the thread that was its home may run another loop
                lwp.wardrobe.part()
                events._set_running_loop(self)
        if self._deferred:
            self._ready.extendleft(reversed(self._deferred))
            self._deferred.clear()

    def _settle(self, home: LWP) -> None:
        """The calling thread is the home, and its thread-locals are the loop's."""
        values = thread_locals.of_this_thread()
        if values is None or self._values is None or not values.are(self._values):
            self._values = values
        self._thread_id = home.identity = get_ident()

    def started(self, lwp: LWP) -> None:
        """Make the calling thread ready to run the loop's code."""
        self._reactions.connections.made_by(lwp.ident)
        self._tracers.started(lwp)
        events._set_running_loop(self)
        sys.set_asyncgen_hooks(firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook)

    def _track(self, lwp: LWP, enabled: bool) -> None:
        """Keep or do not keep where coroutines come from: a property of the thread, for debug mode."""
        if enabled and lwp.tracking is None:
            lwp.tracking = sys.get_coroutine_origin_tracking_depth()
            sys.set_coroutine_origin_tracking_depth(constants.DEBUG_STACK_DEPTH)
        elif not enabled and lwp.tracking is not None:
            sys.set_coroutine_origin_tracking_depth(lwp.tracking)
            lwp.tracking = None

    def serve(self) -> None:
        """Do what others have asked of the home."""
        self._mailbox.serve()

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
        self.call_soon(logger.warning, said, type(interrupt).__name__, lwp.name, self.describe(lwp))
        return passed

    def remind(self) -> None:
        """The home's step has to raise what was put off."""
        self._nudges.remind()

    # ---------------------------------------------------------------- steps

    def _hold(self, lwp: LWP) -> bool:
        """A step is over: hold the loop, if it blocked and did not come back by itself.

        Returns:
            Whether it has ended inside of ``blocking()``, which it was told of.
        """
        unfinished = False
        if self._carrying.holder is not lwp or lwp.region or lwp.trap is not None:
            region = lwp.region
            unfinished = region is not None
            if region is Region.AWAY:
                events._set_running_loop(self)
            self._reactions.step_over(lwp)
            if unfinished:
                # The step could not take back that its task is the current one: asyncio finds no running loop there.
                if _current_tasks is not None and region is Region.AWAY:
                    _current_tasks.pop(self, None)
                self.call_exception_handler({"message": "an await inside of hybridexec.blocking() has ended it"})
        handle = lwp.handle
        if handle.__class__ is FdHandle and handle.state is not FdState.IDLE:
            self.put_back(handle)
        if lwp.interrupt is not None and lwp is not self._carrying.home:
            interrupt, lwp.interrupt = lwp.interrupt, None
            self._put_off(interrupt)  # it was passed on to this step, which has raised something else
        return unfinished

    def _after_step(self, lwp: LWP) -> bool:
        """The step was without the loop, or may have bound its user thread to the LWP.

        Returns:
            Whether the loop has been elsewhere; now the LWP holds it again.
        """
        self._hold(lwp)
        moved = lwp.moved
        lwp.alert = lwp.moved = False
        if lwp.affine:
            self._affinity.after_step(lwp)
        if moved:
            lwp.handle = None
            if lwp.wardrobe.worn is not self._values:  # the step was of an earlier run, with another home
                self._dress(lwp)
        return moved

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
            base_events.logger.error("another exception while the loop ends", exc_info=exc)  # type: ignore[attr-defined]
        self._stopping = True

    def _report(self, handle: Any, exc: BaseException) -> None:
        """As ``Handle._run`` does."""
        text = _format_callback_source(handle._callback, handle._args)
        context = {"message": f"Exception in callback {text}", "exception": exc, "handle": handle}
        if handle._source_traceback:
            context["source_traceback"] = handle._source_traceback
        self.call_exception_handler(context)

    def _run_debug(self, handle: Any) -> None:
        plain: Any = Handle
        started = self.time()
        self._current_handle = handle
        try:
            if handle.__class__ is plain:
                handle._context.run(handle._callback, *handle._args)
            else:
                handle._run()
        finally:
            self._current_handle = None
            lasted = self.time() - started
            if lasted >= self.slow_callback_duration:
                base_events.logger.warning("Executing %s took %.3f seconds", _format_handle(handle), lasted)  # type: ignore[attr-defined]
            del handle  # a traceback may keep this frame


def _entered(context: contextvars.Context) -> bool:
    """Whether a context is entered: nobody else can enter it meanwhile."""
    try:
        context.run(bool)
    except RuntimeError:
        return True
    return False


tasks.replace(HybridLoop)
