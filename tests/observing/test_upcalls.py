"""Upcalls: where each says that it happened, and who may listen.  (What else they say: ``test_modes.py``.)"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import threading
import time
import types
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import steps
from helpers import LIBC, Recorder, fresh, pipe, play, running_loop, thread_name

import hybridexec
from hybridexec import CallSite, Detection, Instrument, Upcall, UpcallKind


def marked(function: Any, text: str) -> int:
    """The number of the line of this file that ends with a comment."""
    code = function.__code__
    with open(code.co_filename) as file:
        lines = file.read().splitlines()
    (number,) = (n for n, line in enumerate(lines, 1) if line.endswith(f"# {text}") and n > code.co_firstlineno)
    return number


# ---------------------------------------------------------------- the call site


class Service:
    """Something that blocks in a method of its own."""

    def query(self, fd: int) -> bytes:
        return os.read(
            fd,
            1,
        )

    async def handler(self, fd: int) -> bytes:
        return self.query(fd)


def site_of(block: Callable[[], object], release: Callable[[], object], **options: Any) -> Upcall:
    """The one upcall that a block brings about."""
    scene = play(block, release, **options)
    assert scene.error is None
    (upcall,) = scene.recorder.of(UpcallKind.BLOCKED, "blocker")
    return upcall


def test_the_site_of_a_declared_call() -> None:
    with pipe() as (reader, writer):
        upcall = site_of(lambda: Service().query(reader), functools.partial(os.write, writer, b"x"))
    line = Service.query.__code__.co_firstlineno + 1  # where the call begins, though it is on several lines
    assert upcall.site == CallSite(__file__, line, "Service.query")
    assert (upcall.callable, upcall.detection) == ("posix.read", Detection.DECLARED)


def test_the_site_of_a_discovered_call() -> None:
    with pipe() as (reader, writer):
        buffer = bytes(1)

        def reads() -> int:
            return int(LIBC.read(reader, buffer, 1))  # discovered here

        upcall = site_of(fresh(reads), functools.partial(os.write, writer, b"x"))
        assert upcall.site == CallSite(__file__, marked(reads, "discovered here"), reads.__qualname__)
        assert (upcall.callable, upcall.detection) == ("LIBC.read", Detection.DISCOVERED)


def test_the_site_of_a_learned_call_is_the_same() -> None:
    with pipe() as (reader, writer):
        buffer = bytes(1)

        def reads() -> int:
            return int(LIBC.read(reader, buffer, 1))

        reads = fresh(reads)
        release = functools.partial(os.write, writer, b"x")
        discovered, learned = site_of(reads, release), site_of(reads, release)
        assert learned.detection is Detection.DECLARED
        assert learned.site == discovered.site
        assert learned.callable is not None
        assert learned.callable.endswith(".read")


def test_the_site_of_a_with_statement() -> None:
    lock = threading.Lock()
    lock.acquire()

    def enters() -> None:
        with lock:  # entered here
            pass

    upcall = site_of(fresh(enters), lock.release)
    assert upcall.site == CallSite(__file__, marked(enters, "entered here"), enters.__qualname__)


def test_the_site_of_a_region() -> None:
    with pipe() as (reader, writer):

        def region() -> None:
            with hybridexec.blocking():  # a region
                os.read(reader, 1)

        upcall = site_of(region, functools.partial(os.write, writer, b"x"))
        assert upcall.site == CallSite(__file__, marked(region, "a region"), region.__qualname__)
        assert (upcall.callable, upcall.detection) == ("hybridexec.blocking", Detection.EXPLICIT)


def test_the_site_of_a_preempted_step() -> None:
    recorder = steps.play_preempted()
    (upcall, *_) = recorder.of(UpcallKind.PREEMPTED)
    assert upcall.site is not None
    assert (upcall.site.file, upcall.site.function) == (steps.__file__, steps.Spin.spins.__qualname__)
    assert (upcall.callable, upcall.detection, upcall.duration) == (None, Detection.PREEMPTED, None)
    assert (upcall.task, upcall.thread) == ("spins", threading.main_thread().name)
    assert not recorder.of(UpcallKind.BLOCKED)


# ---------------------------------------------------------------- who it is


def test_a_block_on_a_spare_names_it() -> None:
    """The home is blocked; the task that releases it blocks before, on a spare."""
    lock = threading.Lock()
    lock.acquire()
    recorder = Recorder()
    names: list[str] = []

    async def home(reader: int) -> None:
        os.read(reader, 1)

    async def spare(writer: int) -> None:
        names.append(thread_name())
        lock.acquire()
        os.write(writer, b"x")

    async def third() -> None:
        lock.release()

    async def main() -> None:
        with pipe() as (reader, writer):
            async with asyncio.TaskGroup() as group:
                group.create_task(home(reader), name="home")
                group.create_task(spare(writer), name="spare")
                group.create_task(third(), name="third")

    hybridexec.run(main(), instruments=[recorder])
    (upcall,) = recorder.of(UpcallKind.BLOCKED, "spare")
    assert upcall.thread == names[0]
    assert upcall.thread.startswith("hybridexec-lwp-")
    (over,) = recorder.of(UpcallKind.UNBLOCKED, "spare")
    assert over.thread == upcall.thread


def test_a_callback_is_no_user_thread() -> None:
    recorder = Recorder()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        with pipe() as (reader, writer):
            loop.call_soon(os.read, reader, 1)
            loop.call_soon(os.write, writer, b"x")
            loop.call_soon(done.set)
            await done.wait()

    hybridexec.run(main(), instruments=[recorder])
    (upcall, *_) = recorder.of(UpcallKind.BLOCKED)
    assert upcall.task is None


def test_an_eager_task_blocks_under_its_own_name() -> None:
    """Its first step is taken inside of the step that creates it."""
    recorder = Recorder()
    names: list[str] = []

    async def child(reader: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        names.append(task.get_name())
        os.read(reader, 1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        with pipe() as (reader, writer):
            loop.call_soon(os.write, writer, b"x")
            await asyncio.create_task(child(reader))

    hybridexec.run(main(), instruments=[recorder])
    (upcall,) = recorder.of(UpcallKind.BLOCKED)
    assert upcall.task == names[0]


def test_two_loops_may_share_an_instrument() -> None:
    """Which lets both go on when it has been told of both."""
    ours, theirs = os.pipe(), os.pipe()

    class Shared(Recorder):
        def blocked(self, upcall: Upcall) -> None:
            self._keep(upcall)
            if len({id(upcall.loop) for upcall in self.of(UpcallKind.BLOCKED)}) == 2:
                for _, writer in ours, theirs:
                    os.write(writer, b"x")

    recorder = Shared()

    async def main(reader: int) -> None:
        os.read(reader, 1)

    try:
        other = threading.Thread(
            target=lambda: hybridexec.run(main(theirs[0]), instruments=[recorder]), name="another home"
        )
        other.start()
        hybridexec.run(main(ours[0]), instruments=[recorder])
        other.join()
    finally:
        for fd in (*ours, *theirs):
            os.close(fd)
    assert {u.thread for u in recorder.of(UpcallKind.BLOCKED)} >= {threading.main_thread().name, "another home"}


# ---------------------------------------------------------------- the pool's


def test_the_pool_tells_of_its_lwps() -> None:
    """One that starts, one that retires since it is idle, and that all are blocked: each ends a wait of the program."""
    started, retired = threading.Event(), threading.Event()
    reader, writer = os.pipe()
    told: list[Upcall] = []

    class Pool(Instrument):
        def lwp_started(self, upcall: Upcall) -> None:
            told.append(upcall)
            started.set()

        def lwp_retired(self, upcall: Upcall) -> None:
            told.append(upcall)
            retired.set()

        def exhausted(self, upcall: Upcall) -> None:
            told.append(upcall)
            os.write(writer, b"xxx")

    async def waits(event: threading.Event) -> None:
        event.wait()

    async def reads() -> None:
        os.read(reader, 1)

    async def main() -> None:
        await asyncio.gather(reads(), reads(), reads())  # all LWPs are blocked, until the instrument ends that
        await waits(started)
        while not retired.is_set():  # (one may poll beside the home: that one stays)
            await asyncio.sleep(0.001)

    hybridexec.run(main(), max_lwps=3, spare_lwps=0, lwp_idle_timeout=0.001, instruments=[Pool()])
    os.close(reader)
    os.close(writer)
    kinds = [upcall.kind for upcall in told]
    assert kinds[0] is UpcallKind.LWP_STARTED
    assert kinds.count(UpcallKind.EXHAUSTED) >= 1
    assert kinds.count(UpcallKind.LWP_RETIRED) == kinds.count(UpcallKind.LWP_STARTED)
    for upcall in told:
        assert (upcall.task, upcall.site, upcall.callable) == (None, None, None)
        assert (upcall.detection, upcall.duration) == (None, None)
        assert upcall.thread


# ---------------------------------------------------------------- instruments


def blocks_declared(reader: int) -> int:
    return len(os.read(reader, 1))


def blocks_undeclared(reader: int) -> int:
    return int(LIBC.read(reader, bytes(1), 1))


def test_a_signal_that_comes_while_an_instrument_is_told_is_not_the_instruments() -> None:
    class Interrupted(Instrument):
        def blocked(self, upcall: Upcall) -> None:
            signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        time.sleep(0.002)
        pytest.fail("went on")

    former = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            hybridexec.run(main(), instruments=[Interrupted()])
    finally:
        signal.signal(signal.SIGINT, former)


def test_any_object_with_a_method_of_the_name_will_do() -> None:
    kept: list[Upcall] = []
    namespace = types.SimpleNamespace(blocked=kept.append)
    double = mock.Mock(spec_set=["unblocked"])

    async def main() -> None:
        time.sleep(0.002)

    hybridexec.run(main(), instruments=[namespace, double])
    assert [upcall.callable for upcall in kept] == ["time.sleep"]
    ((told,), _) = double.unblocked.call_args
    assert told.callable == "time.sleep"


def test_the_environment_may_name_the_instruments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDEXEC_INSTRUMENTS", "helpers:Recorder")

    async def main() -> Recorder:
        time.sleep(0.002)
        (recorder,) = running_loop().config.instruments
        assert isinstance(recorder, Recorder)
        return recorder

    assert hybridexec.run(main()).of(UpcallKind.BLOCKED)


def test_an_instrument_may_ask_the_loop_for_its_figures() -> None:
    """From every method, and on whatever thread: the sampler's and the pool's among them."""
    asked: list[UpcallKind] = []

    class Asks(Instrument):
        def asks(self, upcall: Upcall) -> None:
            assert isinstance(upcall.loop, hybridexec.HybridLoop)
            asked.append(upcall.kind)
            assert upcall.loop.stats().upcalls[upcall.kind] >= 1

        blocked = unblocked = preempted = lwp_started = lwp_retired = exhausted = asks

    reads = fresh(blocks_undeclared)

    async def read(block: Callable[[int], int], reader: int) -> None:
        block(reader)

    async def main() -> None:
        with pipe() as (reader, writer):
            for block in (blocks_declared, reads):
                loop = asyncio.get_running_loop()
                loop.call_later(0.03, os.write, writer, b"xxx")
                # Three of them block all the LWPs but one; the last one takes the timer.
                await asyncio.gather(*(read(block, reader) for _ in range(3)))

    hybridexec.run(main(), max_lwps=4, instruments=[Asks()])
    assert {UpcallKind.BLOCKED, UpcallKind.UNBLOCKED, UpcallKind.LWP_STARTED, UpcallKind.LWP_RETIRED} <= set(asked)


def test_a_block_is_told_before_it_is_over() -> None:
    """By one that is released by an instrument: it is told of the block while that lasts."""
    for block in (blocks_declared, fresh(blocks_undeclared)):
        with pipe() as (reader, writer):

            class Releases(Instrument):
                def __init__(self, writer: int) -> None:
                    self.writer = writer
                    self.order: list[UpcallKind] = []

                def blocked(self, upcall: Upcall) -> None:
                    self.order.append(upcall.kind)
                    os.write(self.writer, b"x")

                def unblocked(self, upcall: Upcall) -> None:
                    self.order.append(upcall.kind)

            instrument = Releases(writer)

            async def main(block: Callable[[int], int], reader: int) -> int:
                return block(reader)

            assert hybridexec.run(main(block, reader), instruments=[instrument]) == 1
            assert instrument.order == [UpcallKind.BLOCKED, UpcallKind.UNBLOCKED]
