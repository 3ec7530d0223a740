"""Turns whose steps are run by the compiled core, as long as there is nothing to look at between two of them.

What is rare is done here and in ``turns.py``, as without it.  Where each step has to be looked at before it is run (one
of a conversation is without the loop, a user thread is bound, steps have time slices), in debug mode, and where a tool
has replaced ``Handle._run``, the Python code runs the batch.
"""

from __future__ import annotations

from asyncio import Handle
from typing import Any

from .._core import compiled
from ..engines.handles import FdState
from ..platform.clock import monotonic
from ..protocol.lwp import LWP, STEP_ENDED, LwpState
from ..protocol.record import LoopState
from .turns import HANDLE_RUN, Turns

if compiled is not None:
    compiled.know(
        FdState.IDLE,
        FdState.TAKEN_OUT,
        STEP_ENDED,
        LoopState.FREE,
        LwpState.POLLING,
        LwpState.RUNNING,
        Handle,
        HANDLE_RUN,
    )


class CompiledTurns(Turns):
    """How a loop of the native engine runs its steps."""

    def timeout(self) -> float | None:
        """Send what the last steps have written, and say how long the poll may last."""
        loop: Any = self._loop
        loop._flush()
        return super().timeout()

    def _sweep(self) -> None:
        """A timer that is cancelled leaves the heap at once."""

    def _move_due(self, end: float) -> None:
        self._carrying.timers.move_due(end, self._carrying.ready)  # type: ignore[attr-defined]

    def _run_batch(self, lwp: LWP, *, begun: bool = False) -> bool:
        """Run the callbacks that are ready now, and maybe more turns; whether the LWP holds the loop afterwards."""
        if Handle._run is not HANDLE_RUN or self._loop._debug or lwp.luggage.tracking is not None:
            return super()._run_batch(lwp, begun=begun)
        carrying = self._carrying
        if not begun and not carrying.batch_unfinished:
            carrying.batch = compiled.Batch(len(carrying.ready))
        poll = None if self._affinity.nested else self._loop._poll  # with none, or one that is not compiled: one turn
        over = False
        while not over and not self._needs_python():
            begun, raised = True, False
            try:
                over = compiled.run_turns(lwp, carrying, self._loop, poll, self._following, self._affinity)
            except BaseException as exc:
                if lwp.handle is None or lwp.handle is STEP_ENDED:
                    raise  # no step has
                self._raised(lwp, lwp.handle, exc)
                raised = True
            if lwp.slow_exit and self.after_step(lwp):
                # The loop has moved meanwhile: this may be another batch by now.
                return carrying.due is None or monotonic() < carrying.due or carrying.boundary(lwp)
            if raised or not over:
                lwp.handle = STEP_ENDED  # what it was is dropped, and its finalizers may block
            if not over and carrying.due is not None and monotonic() >= carrying.due:
                if lwp.slow_exit and self.after_step(lwp):
                    return True  # a finalizer has blocked, and may be without the loop still
                lwp.handle = None
                if not carrying.boundary(lwp):
                    return False
        if not over:
            return super()._run_batch(lwp, begun=begun)  # what is left of it
        if lwp.slow_exit and self.after_step(lwp):  # a finalizer has blocked
            return True
        carrying.batch_unfinished = False
        lwp.handle = None
        return True

    def _needs_python(self) -> bool:
        """Whether each step has to be looked at before it is run, for more than that its context may be entered."""
        return (
            bool(self._following.conversations.away)
            or bool(self._affinity.bound)
            or self._reactions.preempt is not None
            or self._following.tracers.active
        )
