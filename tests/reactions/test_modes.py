"""The modes, what instruments are told, and the figures."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import ctypes
import dataclasses
import functools
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from helpers import LIBC, Recorder, fresh, pipe, play, running_loop

import hybridexec
from hybridexec import BlockingCallError, CallSite, Detection, Instrument, Upcall, UpcallKind

pytestmark = pytest.mark.differs_by_version


def line_of(function: Any, offset: int) -> int:
    """The number of a line of a function."""
    return int(function.__code__.co_firstlineno) + offset


def sleeps() -> str:
    time.sleep(0.01)
    return "slept"


def usleeps() -> str:
    LIBC.usleep(300_000)  # long enough for a sampler that waits for a CPU
    return "slept"


# ---------------------------------------------------------------- handoff, observe, raise


@pytest.mark.parametrize(("block", "detection"), [(sleeps, Detection.DECLARED), (usleeps, Detection.DISCOVERED)])
def test_observe_reports_and_stays(block: Any, detection: Detection) -> None:
    scene = play(fresh(block), mode="observe")
    assert scene.stayed
    assert scene.result == "slept"
    assert scene.recorder.detections() == [detection]
    (over,) = scene.recorder.of(UpcallKind.UNBLOCKED)
    assert over.duration is not None
    assert over.duration >= 0.01
    assert scene.stats.handoffs == 0
    assert scene.stats.lwps_alive == 1


def test_observe_reports_a_region_and_stays() -> None:
    def block() -> None:
        with hybridexec.blocking():
            assert running_loop()

    scene = play(block, mode="observe")
    assert scene.error is None
    assert scene.stayed
    assert scene.recorder.detections() == [Detection.EXPLICIT]


def test_raise_stops_a_declared_call_before_it_begins() -> None:
    with pipe() as (reader, _):  # nobody will ever write
        scene = play(lambda: os.read(reader, 1), mode="raise")
        assert isinstance(scene.error, BlockingCallError)
        assert "read blocks the event loop at" in str(scene.error)
        assert f"{__file__}:" in str(scene.error)
        assert "declared" in str(scene.error)
        assert scene.stayed
        assert scene.error.__traceback__ is not None
        assert scene.stats.handoffs == 0


def test_raise_stops_an_undeclared_call_when_it_is_over() -> None:
    scene = play(fresh(usleeps), mode="raise")
    assert isinstance(scene.error, BlockingCallError)
    assert "LIBC.usleep" in str(scene.error)
    assert "discovered" in str(scene.error)
    assert scene.stayed


def test_raise_leaves_alone_what_does_not_block() -> None:
    lock = threading.Lock()

    def quick() -> str:
        with lock:
            time.sleep(0)
        return "fine"

    scene = play(quick, mode="raise", threshold=60)
    assert scene.error is None
    assert scene.result == "fine"


def test_raise_is_caught_like_any_other_exception() -> None:
    def catches() -> str:
        try:
            time.sleep(1)
        except RuntimeError as exc:
            return type(exc).__name__
        return "slept"

    assert play(catches, mode="raise").result == "BlockingCallError"


def napping() -> Callable[[int], None]:
    """A call that is declared, and of which nobody knows beforehand whether it blocks."""
    usleep = ctypes.CDLL(None).usleep
    hybridexec.register_blocking(usleep)

    def naps(microseconds: int) -> None:
        usleep(microseconds)

    return fresh(naps)


@pytest.mark.parametrize("mode", ["observe", "raise"])
def test_a_quick_call_is_not_suspected_for_a_slow_one_before(mode: str) -> None:
    """A handoff may be done on suspicion, but nobody is accused on it."""
    naps = napping()
    scene = play(lambda: naps(40_000), mode=mode)
    assert isinstance(scene.error, BlockingCallError) is (mode == "raise")
    assert scene.recorder.detections() == [Detection.DECLARED]
    scene = play(lambda: naps(1), mode=mode, threshold=60)
    assert scene.error is None
    assert not scene.recorder.of(UpcallKind.BLOCKED)


def test_raise_stops_a_call_that_a_program_has_declared_to_block() -> None:
    read = ctypes.CDLL(None).read
    hybridexec.register_blocking(read, will_block=lambda fd: True)
    with pipe() as (reader, writer):
        os.write(writer, b"x")
        scene = play(lambda: read(reader, bytes(1), 1), mode="raise")
        assert isinstance(scene.error, BlockingCallError)
        assert os.read(reader, 1) == b"x"  # it was not made


def test_raise_lets_a_region_block() -> None:
    """Who says that a call blocks has done all there is to do."""
    with pipe() as (reader, writer):

        def block() -> bytes:
            with hybridexec.blocking():
                return os.read(reader, 1)

        scene = play(block, functools.partial(os.write, writer, b"x"), mode="raise")
        assert scene.error is None
        assert scene.moved


@pytest.mark.parametrize("mode", ["observe", "raise"])
def test_only_a_handoff_moves_a_loop(mode: Any) -> None:
    """What would be moved is reported, or raised, wherever it is called from; the loop and its steps stay."""
    idents: set[int] = set()

    def blocks() -> None:
        idents.add(_thread.get_ident())
        with contextlib.suppress(BlockingCallError):
            time.sleep(0.002)

    async def main() -> None:
        loop = running_loop()
        done = asyncio.Event()
        loop.call_soon(blocks)
        loop.call_later(0.001, blocks)
        loop.call_later(0.002, done.set)
        await done.wait()
        await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.001) for _ in range(2)))
        stats = loop.stats()
        assert stats.upcalls[UpcallKind.BLOCKED] >= 2
        assert (stats.handoffs, stats.lwps_alive) == (0, 1)

    hybridexec.run(main(), mode=mode, threshold=60)
    assert idents == {_thread.get_ident()}


@pytest.mark.parametrize("mode", ["observe", "raise"])
def test_a_pinned_call_is_let_be(mode: str) -> None:
    def pinned() -> str:
        with hybridexec.pinned():
            return sleeps()

    scene = play(pinned, mode=mode)
    assert scene.error is None
    assert scene.stayed


# ---------------------------------------------------------------- upcalls


def test_an_upcall_says_all_there_is_to_say() -> None:
    began = time.monotonic()
    with pipe() as (reader, writer):

        def block() -> None:
            os.read(reader, 1)

        scene = play(block, functools.partial(os.write, writer, b"x"))
    (blocked,) = scene.recorder.of(UpcallKind.BLOCKED, "blocker")
    (unblocked,) = scene.recorder.of(UpcallKind.UNBLOCKED, "blocker")
    ended = time.monotonic()
    assert blocked == Upcall(
        kind=UpcallKind.BLOCKED,
        time=blocked.time,
        loop=blocked.loop,
        thread=threading.main_thread().name,
        task="blocker",
        site=CallSite(__file__, line_of(block, 1), block.__qualname__),
        callable="posix.read",
        detection=Detection.DECLARED,
        duration=None,
        program_site=CallSite(__file__, line_of(block, 1), block.__qualname__),
    )
    assert began <= blocked.time <= unblocked.time <= ended
    assert unblocked.duration is not None
    assert 0 < unblocked.duration <= ended - began
    assert unblocked == dataclasses.replace(
        blocked, kind=UpcallKind.UNBLOCKED, time=unblocked.time, duration=unblocked.duration
    )
    assert isinstance(blocked.loop, hybridexec.HybridLoop)
    assert str(blocked.site) == f"{__file__}:{line_of(block, 1)}:{block.__qualname__}"
    with pytest.raises(dataclasses.FrozenInstanceError):
        blocked.time = 0.0  # type: ignore[misc]


def test_every_block_that_begins_ends() -> None:
    recorder = Recorder()

    async def task(number: int) -> None:
        for _ in range(5):
            time.sleep(0.0011)
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(asyncio.create_task(task(n), name=str(n)) for n in range(8)))

    hybridexec.run(main(), instruments=[recorder])
    for number in range(8):
        kinds = [
            upcall.kind
            for upcall in sorted(recorder._upcalls, key=lambda upcall: upcall.time)
            if upcall.task == str(number)
        ]
        assert kinds == [UpcallKind.BLOCKED, UpcallKind.UNBLOCKED] * 5
    started, retired = (
        [upcall.thread for upcall in recorder.of(kind)] for kind in (UpcallKind.LWP_STARTED, UpcallKind.LWP_RETIRED)
    )
    assert started
    assert sorted(started) == sorted(retired)
    assert all(name.startswith("hybridexec-lwp-") for name in started)


class OnlyBlocked(Instrument):
    """Overrides one method."""

    def __init__(self) -> None:
        self.sites: list[CallSite | None] = []

    def blocked(self, upcall: Upcall) -> None:
        self.sites.append(upcall.site)


class NoInstrument:
    """Derives from nothing, and has one of the methods."""

    def __init__(self) -> None:
        self.durations: list[float | None] = []

    def unblocked(self, upcall: Upcall) -> None:
        self.durations.append(upcall.duration)


def test_an_instrument_has_the_methods_that_it_wants() -> None:
    one, other = OnlyBlocked(), NoInstrument()

    async def main() -> None:
        time.sleep(0.0011)

    hybridexec.run(main(), instruments=(one, other))
    assert len(one.sites) == len(other.durations) == 1


def test_an_instrument_may_block_and_use_the_loop() -> None:
    """It should not; but it hurts nobody."""
    came: list[str] = []

    class Blocks(Instrument):
        def blocked(self, upcall: Upcall) -> None:
            time.sleep(0.002)
            upcall.loop.call_soon_threadsafe(came.append, "blocked")

        def unblocked(self, upcall: Upcall) -> None:
            time.sleep(0.002)
            upcall.loop.call_soon_threadsafe(came.append, "unblocked")

    async def main() -> None:
        for _ in range(3):
            time.sleep(0.0011)
            await asyncio.sleep(0)
        while min(came.count("blocked"), came.count("unblocked")) < 3:
            await asyncio.sleep(0)

    hybridexec.run(main(), instruments=[Blocks()])


# ---------------------------------------------------------------- stats


def test_the_figures_add_up() -> None:
    async def task() -> None:
        for _ in range(4):
            time.sleep(0.0011)
            await asyncio.sleep(0)

    async def main() -> None:
        loop = running_loop()
        before = loop.stats()
        assert (before.handoffs, before.lwps_alive, before.lwps_blocked, before.frozen_time) == (0, 1, 0, 0.0)
        await asyncio.gather(*(task() for _ in range(5)))
        stats = loop.stats()
        assert stats.upcalls[UpcallKind.BLOCKED] == stats.upcalls[UpcallKind.UNBLOCKED] == stats.handoffs == 20
        assert stats.claims > 0
        assert stats.wakeups >= 0
        assert stats.lwps_blocked == 0
        assert 1 < stats.lwps_alive <= 7
        assert stats.lwps_alive == 1 + stats.upcalls[UpcallKind.LWP_STARTED]
        assert stats.lwps_parked < stats.lwps_alive
        assert 0.001 < stats.longest_block <= stats.frozen_time
        assert stats.frozen_time >= 20 * 0.001
        with pytest.raises(dataclasses.FrozenInstanceError):
            stats.handoffs = 0  # type: ignore[misc]
        assert before.handoffs == 0

    hybridexec.run(main())


def test_any_thread_may_ask_for_the_figures_while_steps_block() -> None:
    with pipe() as (reader, writer):
        seen: list[int] = []

        async def blocks() -> None:
            os.read(reader, 1)

        async def main() -> None:
            loop = running_loop()
            task = asyncio.create_task(blocks())
            await asyncio.sleep(0)
            seen.append(await asyncio.to_thread(lambda: loop.stats().lwps_blocked))
            os.write(writer, b"x")
            await task

        hybridexec.run(main())
        # Starting the thread that asks is a call that may block, too.
        assert seen[0] in (1, 2)


def test_a_closed_loop_still_has_its_figures() -> None:
    loop = hybridexec.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert loop.stats().lwps_alive == 0


# ---------------------------------------------------------------- the GIL


@pytest.mark.parametrize("how", ["sleeps", "computes"])
def test_what_holds_the_gil_is_reported_afterwards(how: str) -> None:
    """C code that lets nobody in: a sleep through ``PyDLL``, which keeps the GIL, or the power of a number."""
    recorder = Recorder()
    usleep = ctypes.PyDLL(None).usleep

    def hold() -> None:
        if how == "sleeps":
            usleep(150_000)
        else:
            pow(3, 4_000_000) % 7

    async def main() -> None:
        while not recorder.of(UpcallKind.UNBLOCKED):
            hold()
            await asyncio.sleep(0)

    hybridexec.run(main(), instruments=[recorder])
    (told, *_) = recorder.of(UpcallKind.UNBLOCKED)
    assert told.detection is Detection.HELD_GIL
    assert told.duration is not None
    assert told.duration > 0.05
