"""What user threads do now: what ``ps -L`` would show, if the kernel knew them.

Nothing is kept for it.  An LWP knows which callback it runs, and a callback knows whose step it is; who is on no LWP
waits, or is ready.  So what is found is a snapshot of things that move: each line was true a moment ago.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..following.tasks import TASKS
from ..loop.loop import HybridLoop
from ..observing.stats import Stats
from ..observing.upcalls import CallSite
from ..protocol.lwp import LWP, LwpState
from .states import UserThreadState

if TYPE_CHECKING:
    from .user_thread import UserThread


@dataclass(frozen=True, slots=True)
class UserThreadInfo:
    """One line of :meth:`HybridExecutor.threads`.

    Attributes:
        name: the name of the user thread.
        state: what it does.
        bound: whether it has an LWP of its own.
        loop: the name of the loop that it belongs to, which is the one of the loop's home thread.
        lwp: the name of the OS thread that runs its step; None if none does.
        site: the call that it is blocked in; None if it is not.
        age: seconds since it was made.
    """

    name: str
    state: UserThreadState
    bound: bool
    loop: str
    lwp: str | None
    site: CallSite | None
    age: float

    def __str__(self) -> str:
        where = f" at {self.site}" if self.site is not None else ""
        lwp, bound = self.lwp or "-", "bound" if self.bound else ""
        return f"{self.name:<24} {self.state.value:<8} {bound:<8} {self.loop:<20} {lwp:<20} {self.age:8.3f}{where}"


@dataclass(frozen=True, slots=True)
class ExecutorStats:
    """What an executor has done so far, and how it stands.

    Attributes:
        submitted: how many user threads it was given.
        done: how many of them have ended, in whatever way.
        queued: how many have not taken their first step.
        moved: how many were moved to another loop before their first step.
        loops: the figures of each loop that moves, by its name.
        lwps: how many OS threads there are: the homes and spares of the loops, and the LWPs of bound user threads.
    """

    submitted: int
    done: int
    queued: int
    moved: int
    loops: Mapping[str, Stats]
    lwps: int


@dataclass(frozen=True, slots=True)
class Step:
    """A step, or its absence.

    Attributes:
        state: what its user thread does.
        lwp: the name of the LWP that it is on.
        site: where it is blocked.
    """

    state: UserThreadState
    lwp: str | None = None
    site: CallSite | None = None


_STATES = {
    LwpState.BLOCKED: UserThreadState.BLOCKED,
    LwpState.RUNNING: UserThreadState.RUNNING,
    LwpState.MARKED: UserThreadState.RUNNING,
}


def look(user_thread: UserThread[Any]) -> Step:
    """What one user thread does."""
    if user_thread.future.done():
        return Step(UserThreadState.DONE)
    steps = steps_of(user_thread._crew.loops())
    return _look(user_thread, steps)


def look_at_all(user_threads: Iterable[UserThread[Any]], loops: Iterable[asyncio.AbstractEventLoop]) -> list[Any]:
    """What many do."""
    steps = steps_of(loops)
    found = []
    for user_thread in user_threads:
        step = _look(user_thread, steps)
        found.append(
            UserThreadInfo(
                user_thread.name,
                step.state,
                user_thread.bound,
                user_thread.place.name,
                step.lwp,
                step.site,
                user_thread.age,
            )
        )
    return found


def _look(user_thread: UserThread[Any], steps: Mapping[object, Step]) -> Step:
    stage, task, place = user_thread.stage.value, user_thread.user_task, user_thread.place
    if user_thread.future.done():
        return Step(UserThreadState.DONE)
    if stage == "queued":
        return Step(UserThreadState.READY)
    step = steps.get(user_thread)
    if step is not None:
        return step
    if task is None or (task is current_task(place)):
        return Step(UserThreadState.RUNNING, place.name)
    waits_for = getattr(task, "_fut_waiter", None)
    return Step(UserThreadState.READY if waits_for is None or waits_for.done() else UserThreadState.WAITING)


def current_task(place: Any) -> asyncio.Task[Any] | None:
    """The task whose step runs on a loop that does not move."""
    loop = place.plain_loop
    return None if loop is None else asyncio.current_task(loop)


def steps_of(loops: Iterable[asyncio.AbstractEventLoop]) -> dict[object, Step]:
    """The steps that are on the LWPs of loops that move, by their user thread."""
    found: dict[object, Step] = {}
    for loop in loops:
        if isinstance(loop, HybridLoop):
            for lwp in loop._lwps():
                owner = owner_of(lwp)
                if owner is not None:
                    found[owner] = _step(lwp)
    return found


def owner_of(lwp: LWP) -> object:
    """The user thread whose step an LWP runs."""
    owner = getattr(getattr(lwp.handle, "_callback", None), "__self__", None)
    if isinstance(owner, TASKS):
        return getattr(owner, "user_thread", None)
    return owner if hasattr(owner, "user_task") else None


def _step(lwp: LWP) -> Step:
    state = _STATES.get(lwp.state, UserThreadState.READY)
    trap = lwp.watch.trap
    call = lwp.watch.call or (trap.call if trap is not None else None)
    blocked = state is UserThreadState.BLOCKED and call is not None
    return Step(state, lwp.name, call.site.describe() if blocked and call is not None else None)
