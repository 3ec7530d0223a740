"""A program: in each of its scenes a signal, whose handler raises, comes at one place of the protocol after the other.

    python tests/signals/signals_anywhere.py [SCENE ...] [--most N] [--seed N] [--place NAME]

After each strike the whole protocol is looked at: what was raised came up once, in a step or out of ``run``; every task
has come to its end, none of its phases was left out or done twice; the loop can be run again; and nothing is left over.
It prints the place before it strikes there: a run that hangs has said where.
"""

from __future__ import annotations

import _thread
import argparse
import asyncio
import collections
import contextlib
import contextvars
import ctypes
import faulthandler
import functools
import os
import random
import signal
import sys
import threading
import time
from asyncio import events
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import places
from helpers import LIBC, lwps
from places import Places

import hybridexec
from hybridexec.detector import trap
from hybridexec.protocol import lwp as lwp_module
from hybridexec.protocol.record import LoopState

PATIENCE = 40
"""Seconds after which a scene hangs: the stacks of all threads are printed, and the program ends."""


COUNTS = 3
"""How often a scene is played to find the places that it reaches."""


class Strike(Exception):
    """What the handler raises, every other time."""


class Blow(KeyboardInterrupt):
    """What it raises the other times: it ends a loop, too."""


class Play:
    """One scene, played once."""

    def __init__(self, scene: Callable[[Play], Any], options: dict[str, Any]) -> None:
        self.scene = scene
        self.raised: list[BaseException] = []  # by the handler
        self.seen: list[BaseException] = []  # where it came up
        self.log: list[str] = []
        self.cut = False  # a task was struck where it does not expect that
        self.how: type[BaseException] = Strike
        self.loop = hybridexec.new_event_loop(threshold=0.001, **options)
        self.loop.set_exception_handler(self._told)

    def handler(self, signum: int, frame: object) -> None:
        """The signal's handler."""
        self.raised.append(self.how(len(self.raised)))
        raise self.raised[-1]

    def saw(self, exc: BaseException) -> None:
        """An exception has come up: once, though a loop that it ends raises it in two places."""
        if not any(exc is known for known in self.seen):
            self.seen.append(exc)

    def _told(self, loop: object, context: dict[str, Any]) -> None:
        if "exception" in context:
            self.saw(context["exception"])
        elif "has ended it" not in context["message"]:
            self.log.append(context["message"])

    @contextlib.contextmanager
    def struck(self) -> Iterator[None]:
        """Where a strike may come up."""
        try:
            yield
        except (Strike, Blow) as exc:
            self.saw(exc)

    async def phase(self, name: str, body: Callable[[], object]) -> None:
        """One step of a task, that may be struck."""
        self.log.append(name)
        with self.struck():
            body()
        with self.struck():
            await asyncio.sleep(0)

    def run(self, coroutine: Any) -> Any:
        """Run the loop until a coroutine is over, whatever comes out of it meanwhile."""
        task = self.loop.create_task(coroutine)
        while not task.done():
            with self.struck():
                self.loop.run_until_complete(task)
        return task

    def __call__(self) -> None:
        try:
            self.run(self.scene(self)).result()
        except (Strike, Blow) as exc:
            self.saw(exc)
            self.cut = True
        while left := asyncio.all_tasks(self.loop):
            self.run(asyncio.wait(left))


# ---------------------------------------------------------------- the scenes


def waits(reader: int) -> None:
    """A call that may block: marked."""
    os.read(reader, 1)


def waits_unknown(reader: int) -> None:
    """One that nobody knows."""
    LIBC.read(reader, ctypes.create_string_buffer(1), 1)


def waits_explicitly(reader: int) -> None:
    """One of which the program says so."""
    with hybridexec.blocking():
        os.read(reader, 1)


def waits_pinned(reader: int) -> None:
    """One that the loop waits for; it does not block."""
    with hybridexec.pinned(), hybridexec.pinned():
        os.read(reader, 1)


async def _blocks(play: Play, wait: Callable[[int], object], *, times: int = 2, pinned: bool = False) -> None:
    """A task blocks until another one of the same loop releases it, which then keeps the loop until it returns."""
    pipes = [os.pipe() for _ in range(times)]
    carrying = play.loop._carrying

    async def blocker() -> None:
        for number, (reader, _) in enumerate(pipes):
            await play.phase(f"blocks {number}", functools.partial(wait, reader))
        play.log.append("blocker ends")

    async def releaser() -> None:
        left = [] if pinned else [writer for _, writer in pipes]
        try:
            for number in range(len(left)):
                await play.phase(f"releases {number}", lambda: release(left.pop(0)))
            play.log.append("releaser ends")
        finally:
            for writer in left:
                os.write(writer, b"x")

    def release(writer: int) -> None:
        written = 0
        try:
            written = os.write(writer, b"x")
        finally:
            if not written:  # it was struck right here
                os.write(writer, b"x")
        until = monotonic() + 0.02  # it may have been struck, and not return at all
        while carrying.detached and not carrying.returning and monotonic() < until:
            pass

    if pinned:
        for _, writer in pipes:
            os.write(writer, b"x")
    await together(play, blocker(), releaser())
    once(play, *(f"blocks {number}" for number in range(times)), "blocker ends", "releaser ends")
    if not pinned:
        once(play, *(f"releases {number}" for number in range(times)))
    for fd in sum(pipes, ()):
        os.close(fd)


async def together(play: Play, *coroutines: Any) -> None:
    """Run tasks until all are over; none of them is to fail."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    while not all(task.done() for task in tasks):
        with play.struck():
            await asyncio.wait(tasks)
    for task in tasks:
        try:
            task.result()
        except (Strike, Blow) as exc:
            play.saw(exc)
            play.cut = True


def once(play: Play, *what: str) -> None:
    """Each of these has happened once."""
    assert play.cut or [play.log.count(name) for name in what] == [1] * len(what), play.log


async def marked(play: Play) -> None:
    """The sampler retakes the loop."""
    await _blocks(play, waits)


async def discovered(play: Play) -> None:
    """The sampler finds it, and arms a trap."""
    await _blocks(play, waits_unknown)


async def explicit(play: Play) -> None:
    """A region, without the loop."""
    await _blocks(play, waits_explicitly)


async def pinned(play: Play) -> None:
    """A region that keeps the loop."""
    await _blocks(play, waits_pinned, pinned=True)


async def sure(play: Play) -> None:
    """The loop is handed off at once; the home comes to be without a step, parks, polls and is given the loop again."""
    lock = threading.Lock()
    lock.acquire()

    async def blocker() -> None:
        await play.phase("blocks", lambda: lock.acquire())
        for _ in range(2):
            with play.struck():
                await asyncio.sleep(0.001)
        play.log.append("blocker ends")

    async def releaser() -> None:
        try:
            await play.phase("releases", lock.release)
            for _ in range(3):
                await play.phase("sleeps", lambda: time.sleep(0.0005))
            play.log.append("releaser ends")
        finally:
            if lock.locked():
                lock.release()

    await together(play, blocker(), releaser())
    once(play, "blocks", "releases", "blocker ends", "releaser ends")


async def unfinished(play: Play) -> None:
    """An await ends a region, and a step that shares its context with a blocked one waits for it."""

    async def awaits() -> None:
        play.log.append("awaits")
        with play.struck(), hybridexec.blocking():
            await asyncio.sleep(0)
        play.log.append("awaiter ends")

    async def sleeper() -> None:
        asyncio.get_running_loop().call_soon(play.log.append, "called", context=context)
        await play.phase("sleeps", lambda: time.sleep(0.001))
        play.log.append("sleeper ends")

    context = contextvars.copy_context()
    await together(play, asyncio.create_task(awaits()), asyncio.create_task(sleeper(), context=context))
    while "called" not in play.log and not play.cut:
        with play.struck():
            await asyncio.sleep(0)
    once(play, "awaits", "awaiter ends", "sleeper ends", "called")


async def preempted(play: Play) -> None:
    """Two tasks compute, by turns."""
    done: set[str] = set()

    async def computes(name: str, other: str) -> None:
        play.log.append(name)
        until = monotonic() + 0.1
        while monotonic() < until:
            with play.struck():
                while len(done) < 2 and monotonic() < until:
                    done.add(name)
        play.log.append(f"{name} ends")

    await together(play, computes("first", "second"), computes("second", "first"))
    once(play, "first", "first ends", "second", "second ends")


SCENES: dict[str, tuple[Callable[[Play], Any], dict[str, Any]]] = {
    scene.__name__: (scene, options)
    for scene, options in (
        (explicit, {}),
        (marked, {}),
        (discovered, {}),
        (pinned, {}),
        (sure, {}),
        (unfinished, {}),
        (preempted, {"preempt": 0.005}),
    )
}


# ---------------------------------------------------------------- what has to be so afterwards


def whole(play: Play) -> None:
    """Look at the protocol of a loop that does not run."""
    carrying = play.loop._carrying
    assert carrying.state is LoopState.STOPPED, carrying.state
    assert (carrying.home, carrying.holder, carrying.holder_ident) == (None, None, None)
    assert not carrying.inside()
    assert not carrying.detached, carrying.detached
    assert not carrying.returning, carrying.returning
    assert not carrying.preempted, carrying.preempted
    former = carrying._former
    assert former is not None
    assert former not in carrying.pollers
    assert former not in carrying.lwps
    assert (former.watch.call, former.region, former.watch.trap, former.interrupt, former.luggage.task) == (None,) * 5
    assert former.handle is None
    assert not play.loop._carrying.deferred
    assert trap._armory.armed == 0 == len(trap._armory.codes)
    assert not trap._armory.inside()
    assert _thread.get_ident() not in lwp_module.current
    assert events._get_running_loop() is None
    if sys.version_info < (3, 14):
        assert play.loop not in asyncio.tasks._current_tasks  # type: ignore[attr-defined]
    assert signal.getsignal(signal.SIGUSR1) == play.handler
    assert vars(signal)["_signal"] is sys.modules["_signal"]


async def again(play: Play) -> str:
    """The loop can be run again, and moves."""
    reader, writer = os.pipe()
    asyncio.get_running_loop().call_soon(os.write, writer, b"x")
    with hybridexec.blocking():
        os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    return "over"


def hangs(play: Play) -> None:
    """Say what there is to say, and end the program."""
    print("hangs:", play.raised, play.seen, play.log, *map(asyncio.Task.get_stack, asyncio.all_tasks(play.loop)))
    print(play.loop._ready, play.loop._carrying.deferred, play.loop._scheduled)
    for name, value in vars(play.loop._carrying).items():
        print("   ", name, "=", value)
    former = play.loop._carrying._former
    for lwp in [*([] if former is None else [former]), *play.loop._carrying.lwps]:
        print("   ", lwp, lwp.handle, lwp.watch.call, lwp.region, lwp.watch.trap, lwp.interrupt)
    sys.stdout.flush()
    faulthandler.dump_traceback()
    os._exit(1)


def perform(name: str, how: type[BaseException], around: Callable[[Play], object]) -> None:
    """Play a scene, and look at what it leaves."""
    play = Play(*SCENES[name])
    play.how = how
    before = signal.signal(signal.SIGUSR1, play.handler)
    watchdog = threading.Timer(PATIENCE, hangs, [play])
    watchdog.daemon = True
    watchdog.start()
    try:
        around(play)
        whole(play)
        assert len(play.raised) == len(play.seen), (play.raised, play.seen, play.log)
        assert play.loop.run_until_complete(again(play)) == "over"
        whole(play)
    finally:
        play.loop.close()
        watchdog.cancel()
        signal.signal(signal.SIGUSR1, before)
    assert not play.loop._carrying.lwps
    assert not play.loop._carrying.starting
    assert not lwps()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("scenes", nargs="*", default=list(SCENES))
    parser.add_argument("--most", type=int, help="how many places of a scene, chosen at random")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--place", help="only places whose name has this in it")
    options = parser.parse_args()
    if sys.version_info < (3, 15):  # which crashes now and then, if there are events inside of a callback
        places.events_in_callbacks()
    watch = Places()
    for name in options.scenes:
        counts: dict[places.Place, int] = {}
        times: collections.Counter[places.Place] = collections.Counter()

        def count(play: Play, counts: Any = counts, times: Any = times) -> None:
            reached = watch.count(play)
            counts.update(reached)
            times.update(reached.keys())

        for _ in range(COUNTS):  # what is reached differs from time to time, on a busy machine by more
            perform(name, Strike, count)
        reached = sorted(counts, key=places.name_of)
        chosen = [place for place in reached if not options.place or options.place in places.name_of(place)]
        if options.most is not None:  # some of those that are sure to be reached
            chosen = [place for place in chosen if times[place] == COUNTS]
        # A place's lot is its own: the same are drawn, whatever else is reached this time.
        lots = {place: random.Random(f"{options.seed} {places.name_of(place)}") for place in chosen}
        order = {place: lot.random() for place, lot in lots.items()}
        chosen = sorted(chosen, key=order.__getitem__)[: options.most]
        struck = 0
        for place in chosen:
            nth = lots[place].randint(1, min(counts[place], 3))
            how = lots[place].choice((Strike, Blow))
            print("at", name, places.name_of(place), nth, how.__name__, flush=True)

            def strike(play: Play, place: places.Place = place, nth: int = nth) -> None:
                nonlocal struck
                struck += watch.strike(place, nth, play)

            perform(name, how, strike)
        print("over", name, len(reached), len(chosen), struck, flush=True)
    print("done", flush=True)


if __name__ == "__main__":
    main()
