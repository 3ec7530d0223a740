"""Turns: how a loop runs what is ready.

A *turn* is what asyncio calls ``_run_once``, less the poll: events and due timers are handled, then the *batch* is run,
which is what was ready by then.  A batch may be under way on several LWPs one after the other: the steps that are left
are counted in one place (``Record.batch``), and whoever takes the loop runs the next one.
"""

from __future__ import annotations

import collections
import contextvars
import heapq
import math
from asyncio import Handle, base_events, events
from asyncio.base_events import _format_handle  # type: ignore[attr-defined]
from asyncio.format_helpers import _format_callback_source
from typing import Any

from ..engines.base import Engine
from ..engines.handles import FdHandle, FdState, Step
from ..following.following import Following, track
from ..platform.clock import monotonic
from ..platform.own import own
from ..protocol import order
from ..protocol.carrying import Carrying
from ..protocol.lwp import LWP, STEP_ENDED, Region
from ..reactions.reactions import Reactions

# When to sweep out cancelled timers.  A server cancels the oldest ones all the time (keep-alive), and to take these off
# the heap one by one costs more than to make it anew: so this is sooner than asyncio does.
_MIN_CANCELLED_TIMERS = 30
_CANCELLED_FRACTION = 0.25
_MAX_TIMEOUT = 24 * 3600.0

HANDLE_RUN: Any = Handle._run
"""asyncio's own, which the turns do without."""

_STOPS: Any = base_events._run_until_complete_cb  # type: ignore[attr-defined]
"""What stops a loop whose main task has ended."""


class Turns:
    """How one loop runs its steps.  The protocol's ``Turns``.

    Args:
        loop: the loop.
        carrying: who carries it.
        reactions: what it does about blocks.
        following: what follows it.
    """

    def __init__(self, loop: Engine, carrying: Carrying, reactions: Reactions, following: Following) -> None:
        self._loop = loop
        self._carrying = carrying
        self._reactions = reactions
        self._following = following
        self._affinity = reactions.affinity

    def loosen(self, loop: Engine) -> None:
        """The loop is closed: refer to it by this from now on."""
        self._loop = loop

    def timeout(self) -> float | None:
        """Sweep cancelled timers, and say how long the poll may last."""
        self._sweep()
        carrying = self._carrying
        if carrying.stopping and carrying.awaiting:
            loop: Any = self._loop
            loop._awaiting.stopping()
        if carrying.ready or (carrying.stopping and order.can_stop(carrying)):
            return 0
        timers = carrying.timers
        if timers:
            return float(min(max(timers[0]._when - self._loop.time(), 0), _MAX_TIMEOUT))
        return None

    def _sweep(self) -> None:
        """Take cancelled timers off the heap, if there are many, or if one is the next."""
        loop, timers = self._loop, self._carrying.timers
        count = len(timers)
        if count > _MIN_CANCELLED_TIMERS and loop._timer_cancelled_count / count > _CANCELLED_FRACTION:
            kept = []
            for handle in timers:
                if handle._cancelled:
                    handle._scheduled = False
                else:
                    kept.append(handle)
            heapq.heapify(kept)
            timers[:] = kept
            loop._timer_cancelled_count = 0
        else:
            while timers and timers[0]._cancelled:
                loop._timer_cancelled_count -= 1
                heapq.heappop(timers)._scheduled = False

    def run(self, lwp: LWP, events: Any) -> bool:
        """Handle events and due timers, then run what was ready by then."""
        carrying, loop = self._carrying, self._loop
        try:
            if events:
                loop._poll.dispatch(events)
                events = None  # break cycles, as asyncio does
            if carrying.timers:
                self._move_due(loop.time() + loop._clock_resolution)
            while lwp.bound_steps:
                carrying.ready.appendleft(lwp.bound_steps.pop())
            held = self._run_batch(lwp)
            if self._following.tracers.active:
                self._following.tracers.covered(lwp)
            return held
        except BaseException as exc:  # asyncio raises it out of run_forever(), and so does the home
            if lwp is carrying.home or carrying.is_forked():
                raise
            loop._fail(exc)
            self.drop_step(lwp)
            return True

    def _move_due(self, end: float) -> None:
        """Make the timers ready that are due before a time."""
        timers, ready = self._carrying.timers, self._carrying.ready
        while timers and timers[0]._when < end:
            timers[0]._scheduled = False
            ready.append(heapq.heappop(timers))  # in one go: one of the two has it, whatever is raised

    def drop_step(self, lwp: LWP) -> None:
        """An exception has broken off a turn of the LWP: it holds the loop, and has no step."""
        self._carrying.regain(lwp)
        if lwp.luggage.check_bindings:
            self._affinity.after_step(lwp)  # what its step owns is the loop's: others wait for that
        lwp.handle = None
        self._reactions.step_over(lwp)
        lwp.slow_exit = lwp.lost_loop = False

    def _run_batch(self, lwp: LWP, *, begun: bool = False) -> bool:
        """Run the callbacks that are ready now; whether the LWP holds the loop afterwards.

        Args:
            lwp: the holder.
            begun: whether the batch has begun.
        """
        carrying, loop = self._carrying, self._loop
        ready: collections.deque[Any] = carrying.ready
        if not begun and not carrying.batch_unfinished:
            carrying.batch = iter(range(len(ready)))
        batch = carrying.batch
        # None of these changes during a batch but by a step that ends it, or has it end slowly.
        careful = self._careful()
        debug = loop._debug
        if debug is not (lwp.luggage.tracking is not None):
            track(lwp, debug)
        step: Any = Step
        plain: Any = Handle
        of_fd: Any = FdHandle
        over: Any = STEP_ENDED
        idle, taken_out = FdState.IDLE, FdState.TAKEN_OUT
        if Handle._run is not HANDLE_RUN:
            step = plain = of_fd = None  # a tool has put its own in that place, by which it sees all callbacks
        handle: Any = over
        try:
            for _ in batch:
                handle = ready.popleft()
                if handle._cancelled:
                    continue
                if careful and not self._may_run(lwp, handle):
                    continue
                try:
                    lwp.handle = handle
                    if debug:
                        self._run_debug(handle)
                    elif (kind := handle.__class__) is step or kind is plain:
                        # Inline, so that this frame, and not asyncio's, is the innermost one of a callback in C.
                        handle._context.run(handle._callback, *handle._args)
                    elif kind is of_fd:  # it has its turn: now it is to be called again if its descriptor is ready
                        if handle.state is taken_out:
                            self._loop._put_back(handle)
                        handle.state = idle
                        handle._context.run(handle._callback, *handle._args)
                    else:
                        handle._run()
                except BaseException as exc:
                    self._raised(lwp, handle, exc)
                if lwp.slow_exit:
                    handle = None
                    if self.after_step(lwp):
                        # The loop has moved meanwhile: this may be another batch by now.
                        return carrying.due is None or monotonic() < carrying.due or carrying.boundary(lwp)
                    careful = self._careful()
                # Here it is dropped, and its finalizers may block: if one does, others get what is left of the batch.
                lwp.handle = handle = over
                if carrying.due is not None and monotonic() >= carrying.due:
                    if lwp.slow_exit and self.after_step(lwp):
                        return True  # a finalizer has blocked, and may be without the loop still
                    lwp.handle = None
                    if not carrying.boundary(lwp):
                        return False
        except BaseException:
            self._put_back(lwp, handle)
            raise
        if lwp.slow_exit and self.after_step(lwp):  # a finalizer has blocked
            return True
        carrying.batch_unfinished = False
        lwp.handle = None
        return True

    def _raised(self, lwp: LWP, handle: Any, exc: BaseException) -> None:
        """A step has raised.  Called where that is handled.

        Raises:
            BaseException: what ends the run, or has come up before the step has begun.
        """
        if isinstance(exc, SystemExit | KeyboardInterrupt):
            self._hold(lwp)
            raise
        if _never_began(handle, exc):
            lwp.handle = None
            raise
        if not self._hold(lwp):
            self._report(handle, exc)

    def _put_back(self, lwp: LWP, handle: Any) -> None:
        """A turn was broken off: a step that was taken from the queue, and has not begun, is next once more."""
        if handle is None or handle is STEP_ENDED or lwp.handle is handle or handle in self._carrying.deferred:
            return
        if not any(handle in each.bound_steps for each in list(self._carrying.lwps)):
            self._carrying.ready.appendleft(handle)

    def _careful(self) -> bool:
        """Whether a step has to be looked at before it is run."""
        return bool(self._carrying.detached) or bool(self._affinity.bound) or self._reactions.preempt is not None

    def _may_run(self, lwp: LWP, handle: Any) -> bool:
        """Whether a step may run now, on this LWP; if not, it has been put where it belongs."""
        if self._affinity.bound and not self._affinity.may_run(lwp, handle):
            return False
        if self._carrying.detached and (self._following.conversations.concerns(handle) or _entered(handle._context)):
            # A step that is without the loop: this one is run when that one is over.
            self._carrying.deferred.append(handle)
            return False
        if self._reactions.preempt is not None:
            lwp.watch.began = monotonic()
        return True

    def has_input(self) -> bool:
        """Whether a timer is due, or a file descriptor is registered that may have become ready."""
        return order.next_deadline(self._carrying) <= self._loop.time() or self._loop._poll.has_input()

    def until(self, deadline: float) -> float | None:
        """The timeout of a poll that lasts until ``deadline``."""
        return None if deadline == math.inf else min(max(deadline - self._loop.time(), 0.0), _MAX_TIMEOUT)

    def break_poll(self) -> None:
        """End a poll that is under way, or the next one."""
        self._loop._write_to_self()

    def fail(self, exc: BaseException) -> None:
        """The run has to end with an exception."""
        self._loop._fail(exc)

    def orphaned(self, lwp: LWP) -> None:
        """The LWP has ended by an exception: what waits for it is for the others."""
        self._affinity.orphaned(lwp)
        self._following.returned(lwp)
        ready, deferred = self._carrying.ready, self._carrying.deferred
        while deferred:
            ready.appendleft(deferred.pop())
        while lwp.bound_steps:
            ready.appendleft(lwp.bound_steps.pop())
        call, lwp.watch.call, lwp.handle = lwp.watch.call, None, None
        self._reactions.tell_all(call)

    # ---------------------------------------------------------------- the end of a step

    def _hold(self, lwp: LWP) -> bool:
        """A step is over: hold the loop, if it blocked and did not come back by itself.

        Returns:
            Whether it has ended inside of ``blocking()``, which it was told of.
        """
        unfinished = False
        watch = lwp.watch
        if self._carrying.holder is not lwp or lwp.region or watch.trap is not None or watch.call is not None:
            region = lwp.region
            unfinished = region is not None
            if region is Region.AWAY:
                events._set_running_loop(self._loop)
            away = self._carrying.holder is not lwp
            self._reactions.step_over(lwp)
            if away and not unfinished:
                self._following.forget_task()  # it comes back too late: its task is no longer the current one
            if unfinished:
                if region is Region.AWAY:  # asyncio has found no running loop there
                    self._following.forget_task()
                self._loop.call_exception_handler({"message": "an await inside of hybridexec.blocking() has ended it"})
        handle = lwp.handle
        if handle.__class__ is FdHandle and handle.state is not FdState.IDLE:
            self._loop._put_back(handle)
        if lwp.interrupt is not None and lwp is not self._carrying.home:
            interrupt, lwp.interrupt = lwp.interrupt, None
            self._loop._put_off(interrupt)  # it was passed on to this step, which has raised something else
        return unfinished

    def after_step(self, lwp: LWP) -> bool:
        """The step was without the loop, or may have bound its user thread to the LWP.

        Returns:
            Whether the loop has been elsewhere; now the LWP holds it again.
        """
        self._hold(lwp)
        moved = lwp.lost_loop
        lwp.slow_exit = lwp.lost_loop = False
        if lwp.luggage.check_bindings:
            self._affinity.after_step(lwp)
        if moved:
            lwp.handle = STEP_ENDED
            if lwp.slow_exit:  # ... which it is, and the finalizers of what it has kept have blocked, too
                self.after_step(lwp)
            lwp.handle = None
            self._following.dress(lwp)  # the step may be of an earlier run, with another home
        return moved

    def _report(self, handle: Any, exc: BaseException) -> None:
        """As ``Handle._run`` does."""
        if handle._callback is _STOPS:
            self._loop._fail(exc)  # nothing else would ever end the run
        text = _format_callback_source(handle._callback, handle._args)
        context = {"message": f"Exception in callback {text}", "exception": exc, "handle": handle}
        if handle._source_traceback:
            context["source_traceback"] = handle._source_traceback
        self._loop.call_exception_handler(context)

    def _run_debug(self, handle: Any) -> None:
        plain: Any = Handle if Handle._run is HANDLE_RUN else None
        started = self._loop.time()
        self._loop._current_handle = handle
        try:
            if handle.__class__ is plain:
                handle._context.run(handle._callback, *handle._args)
            else:
                handle._run()
        finally:
            self._loop._current_handle = None
            lasted = self._loop.time() - started
            if lasted >= self._loop.slow_callback_duration:
                base_events.logger.warning("Executing %s took %.3f seconds", _format_handle(handle), lasted)  # type: ignore[attr-defined]
            del handle  # a traceback may keep this frame


def _never_began(handle: Any, exc: BaseException) -> bool:
    """Whether an exception comes from the loop's own code on the way to a step, and not from the step."""
    traceback = None if exc.__traceback__ is None else exc.__traceback__.tb_next
    if traceback is not None and traceback.tb_frame.f_code is Turns._run_debug.__code__:
        traceback = traceback.tb_next
    if traceback is None:
        return False
    code = traceback.tb_frame.f_code
    return own(code) and code is not getattr(handle._callback, "__code__", None)  # it may be a function of this package


def _entered(context: contextvars.Context) -> bool:
    """Whether a context is entered: nobody else can enter it meanwhile."""
    try:
        context.run(bool)
    except RuntimeError:
        return True
    return False
