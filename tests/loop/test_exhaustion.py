"""Exhaustion: every LWP that a loop may have is blocked.  It is told once, with all that is known; then all goes on.

Who releases the blocked ones here is the instrument that is told of the exhaustion, or a thread beside the loop: by
then nothing of the loop can.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Callable

import pytest
from helpers import LIBC, Recorder, fresh, lwps, pipe, play, running_loop
from steps import declared, discovered, explicit

import hybridexec
from hybridexec import Detection, Upcall, UpcallKind
from hybridexec.protocol.lwp import LWP


class Releases(Recorder):
    """Does something when it is told of an exhaustion."""

    def __init__(self, *releases: Callable[[], object]) -> None:
        super().__init__()
        self._releases = list(releases)

    def exhausted(self, upcall: Upcall) -> None:
        """The next one, please."""
        self._keep(upcall)
        if self._releases:
            self._releases.pop(0)()

    @property
    def told(self) -> int:
        """How often."""
        return len(self.of(UpcallKind.EXHAUSTED))


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the log has said of exhaustion."""
    return lambda: [record.getMessage() for record in caplog.records if "max_lwps" in record.getMessage()]


type Warnings = Callable[[], list[str]]


KINDS = pytest.mark.parametrize(
    ("block", "callable", "detection"),
    [
        (declared, "posix.read", Detection.DECLARED),
        (discovered, ".read", Detection.DISCOVERED),  # of LIBC, or of ctypes where the site is known by then
        (explicit, "hybridexec.blocking", Detection.EXPLICIT),
    ],
)


@KINDS
@pytest.mark.parametrize("most", [2, 3, 6])
def test_each_blocked_user_thread_is_listed_with_its_site(
    most: int, block: Callable[[int], None], callable: str, detection: Detection, warnings: Warnings
) -> None:
    with pipe() as (reader, writer):
        recorder = Releases(lambda: os.write(writer, b"x" * most))
        block = fresh(block)

        async def blocks() -> None:
            block(reader)

        async def main() -> None:
            await asyncio.gather(*(asyncio.create_task(blocks(), name=f"blocker-{n}") for n in range(most)))

        hybridexec.run(main(), max_lwps=most, instruments=[recorder])
    assert recorder.told == 1
    (warning,) = warnings()
    head, *lines = warning.splitlines()
    assert f"all {most} LWPs are blocked" in head
    assert len(lines) == most
    line = block.__code__.co_firstlineno
    for n in range(most):
        (about,) = [text for text in lines if f"'blocker-{n}'" in text]
        assert callable in about
        site = re.search(r"steps\.py:(\d+):(\w+)", about)
        assert site is not None
        assert line < int(site[1]) <= line + 3
        assert site[2] == block.__name__
    assert sum("MainThread" in text for text in lines) == 1
    assert sum("hybridexec-lwp-" in text for text in lines) == most - 1
    assert set(recorder.detections("blocker-0")) <= {detection, Detection.DECLARED}, "its site may be known by then"


def test_nothing_else_runs_and_one_that_comes_back_lets_all_go_on(warnings: Warnings) -> None:
    """The first to be released carries the loop; only the task that waited releases the others."""
    with pipe() as (one_reader, one_writer), pipe() as (reader, writer):
        order: list[str] = []
        released = threading.Event()

        def release() -> None:
            order.append("exhausted")
            released.set()
            os.write(one_writer, b"x")

        async def blocks(fd: int, name: str) -> None:
            os.read(fd, 1)
            order.append(name)

        async def waits() -> None:
            assert released.is_set(), "all LWPs are blocked: nobody can run this"
            order.append("waited")
            os.write(writer, b"xx")

        async def main() -> None:
            await asyncio.gather(blocks(reader, "other"), blocks(one_reader, "one"), blocks(reader, "other"), waits())

        hybridexec.run(main(), max_lwps=3, instruments=[Releases(release)])
    assert order == ["exhausted", "one", "waited", "other", "other"] or order == [
        "exhausted",
        "waited",
        "one",
        "other",
        "other",
    ]
    assert len(warnings()) == 1


def test_an_exhausted_loop_is_not_told_again_by_what_arrives(warnings: Warnings) -> None:
    with pipe() as (reader, writer):
        recorder = Releases()
        ran: list[int] = []

        async def blocks() -> None:
            os.read(reader, 1)

        def beside(loop: hybridexec.HybridLoop) -> None:
            while not recorder.told:
                time.sleep(0.001)
            for n in range(20):
                loop.call_soon_threadsafe(ran.append, n)
                time.sleep(0.001)
            stats = loop.stats()
            assert (stats.lwps_blocked, stats.lwps_alive, stats.lwps_parked) == (2, 2, 0)
            assert not ran, "there is nobody to run it"
            os.write(writer, b"xx")

        async def main() -> None:
            thread = threading.Thread(target=beside, args=(running_loop(),))
            thread.start()
            await asyncio.gather(blocks(), blocks())
            await asyncio.to_thread(thread.join)
            assert running_loop().stats().upcalls[UpcallKind.EXHAUSTED] == 1

        hybridexec.run(main(), max_lwps=2, instruments=[recorder])
    assert ran == list(range(20))
    assert recorder.told == len(warnings()) == 1


def test_a_second_exhaustion_at_the_same_site_is_counted(warnings: Warnings, caplog: pytest.LogCaptureFixture) -> None:
    with pipe() as (reader, writer):

        def release() -> None:
            os.write(writer, b"xxx")

        recorder = Releases(release, release, release)

        async def blocks() -> None:
            os.read(reader, 1)

        async def main() -> None:
            for turn in range(3):
                await asyncio.gather(*(asyncio.create_task(blocks(), name=f"turn-{turn}") for _ in range(3)))
                assert recorder.told == turn + 1

        hybridexec.run(main(), max_lwps=3, instruments=[recorder])
    (warning,) = warnings()
    assert "turn-0" in warning
    assert "all LWPs of a loop were blocked again (2 times)" in caplog.messages


def test_one_that_comes_back_and_blocks_again_is_not_told_again(warnings: Warnings) -> None:
    """Else a program at its limit would write a line for each call."""
    with pipe() as (one_reader, one_writer), pipe() as (reader, writer):
        recorder = Releases(lambda: os.write(one_writer, b"x"))
        rounds = 0

        async def comes_back() -> None:
            nonlocal rounds
            for _ in range(10):
                os.read(one_reader, 1)
                rounds += 1
                await asyncio.sleep(0)

        async def blocks() -> None:
            os.read(reader, 1)

        def beside() -> None:
            while rounds < 10:
                seen = rounds
                os.write(one_writer, b"x")
                while rounds == seen and rounds < 10:
                    time.sleep(0.001)
            os.write(writer, b"xxx")

        async def main() -> None:
            tasks = [asyncio.create_task(coroutine) for coroutine in (blocks(), blocks(), blocks(), comes_back())]
            thread = threading.Thread(target=beside)
            thread.start()
            await asyncio.gather(*tasks)
            await asyncio.to_thread(thread.join)

        hybridexec.run(main(), max_lwps=4, instruments=[recorder])
    assert rounds == 10
    assert recorder.told == len(warnings()) == 1


# ---------------------------------------------------------------- locks


def by_acquire(lock: threading.Lock) -> None:
    """Block in a call."""
    lock.acquire()
    lock.release()


def by_statement(lock: threading.Lock) -> None:
    """Block in a statement, which is a call since 3.14 only."""
    with lock:
        pass


@pytest.mark.parametrize("take", [by_acquire, by_statement])
@pytest.mark.parametrize("most", [2, 4])
def test_locks_that_only_a_waiting_user_thread_can_release_are_named(
    most: int, take: Callable[[threading.Lock], None], warnings: Warnings
) -> None:
    """The owner of the lock waits for the loop, for which there is no LWP left: only the log can help."""
    take = fresh(take)
    lock = threading.Lock()
    recorder = Releases(lock.release)  # what a human would have to bring about

    async def owns(over: asyncio.Event) -> None:
        lock.acquire()
        await over.wait()

    async def wants() -> None:
        take(lock)

    async def main() -> None:
        over = asyncio.Event()
        owner = asyncio.create_task(owns(over))
        await asyncio.sleep(0)
        await asyncio.gather(*(asyncio.create_task(wants(), name=f"wants-{n}") for n in range(most)))
        over.set()
        await owner

    hybridexec.run(main(), max_lwps=most, instruments=[recorder])
    assert recorder.told == 1
    (warning,) = warnings()
    head, *lines = warning.splitlines()
    assert "every one waits for a lock" in head
    site = f"test_exhaustion.py:{take.__code__.co_firstlineno + 2}:{take.__name__}"
    assert re.search(rf"<lock> {id(lock):#x} at \S+{site} \({most} times\)$", head)
    assert len(lines) == most


def test_locks_are_not_suspected_when_somebody_waits_for_something_else(warnings: Warnings) -> None:
    lock = threading.Lock()
    lock.acquire()
    with pipe() as (reader, writer):

        def release() -> None:
            lock.release()
            os.write(writer, b"x")

        async def wants() -> None:
            lock.acquire()

        async def reads() -> None:
            os.read(reader, 1)

        async def main() -> None:
            await asyncio.gather(wants(), reads())

        hybridexec.run(main(), max_lwps=2, instruments=[Releases(release)])
    (warning,) = warnings()
    assert "waits for a lock" not in warning
    assert "lock.acquire" in warning


def test_a_condition_and_an_event_are_locks_too(warnings: Warnings) -> None:
    event, condition = threading.Event(), threading.Condition()

    def release() -> None:
        event.set()
        with condition:
            condition.notify()

    async def waits() -> None:
        event.wait()

    async def is_notified() -> None:
        with condition:
            condition.wait()

    async def main() -> None:
        await asyncio.gather(waits(), is_notified())

    hybridexec.run(main(), max_lwps=2, instruments=[Releases(release)])
    warning, *_ = warnings()  # the condition's lock may be met as well
    assert "every one waits for a lock" in warning
    assert warning.splitlines()[0].count("threading.py") == 2


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("most", [1, 0, -1])
def test_one_lwp_is_refused(most: int) -> None:
    with pytest.raises(ValueError, match=rf"max_lwps={most}.*from 2"):
        hybridexec.new_event_loop(max_lwps=most, spare_lwps=0)


@pytest.mark.parametrize("spares", [0, 1])
def test_two_lwps_are_enough_for_one_block_after_the_other(spares: int, warnings: Warnings) -> None:
    """The loop moves to and fro; nothing is exhausted, since only one is blocked at a time."""
    recorder = Releases()

    async def main() -> None:
        for _ in range(50):
            with pipe() as (reader, writer):
                asyncio.get_running_loop().call_soon(os.write, writer, b"x")
                os.read(reader, 1)
            await asyncio.sleep(0)
        assert running_loop().stats().lwps_alive <= 2

    hybridexec.run(main(), max_lwps=2, spare_lwps=spares, instruments=[recorder])
    assert not warnings()
    assert not recorder.told


def test_many_more_blocks_than_lwps_all_come_to_their_end() -> None:
    """All LWPs are blocked again and again; what waits meanwhile is done in the end."""
    done: list[int] = []
    alive: list[int] = []

    async def blocks(n: int) -> None:
        for _ in range(3):
            time.sleep(0.001)
            LIBC.usleep(1000)
            await asyncio.sleep(0)
        alive.append(running_loop().stats().lwps_alive)
        done.append(n)

    async def main() -> None:
        await asyncio.gather(*map(blocks, range(30)))

    hybridexec.run(main(), max_lwps=4)
    assert sorted(done) == list(range(30))
    assert max(alive) <= 4
    assert not lwps()


def test_a_system_that_has_no_thread_to_give_is_told_and_the_loop_waits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The block is over only when the log has said so."""
    with pipe() as (reader, writer):

        def start(lwp: LWP) -> None:
            os.write(writer, b"x")
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(LWP, "start", start)
        scene = play(lambda: os.read(reader, 1))
        assert scene.result == b"x"
        assert scene.held
    assert "the system has no thread for another LWP beside 1: " in caplog.text
    assert scene.stats.lwps_alive == 1


class Alarm(Exception):
    """What a signal handler raises."""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_signal_while_a_thread_is_started_costs_no_block_its_handoff(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can tell whether the thread will come, so nobody relies on it: the next block finds another."""
    begin = threading.Thread.start
    alarms = [Alarm]

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("hybridexec-lwp-") and when == "after":
            begin(thread)
        if thread.name.startswith("hybridexec-lwp-") and alarms:
            raise alarms.pop()
        if thread.ident is None:
            begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)

    async def main() -> None:
        with pipe() as (reader, writer):
            with pytest.raises(Alarm):
                os.read(reader, 1)
            assert not alarms
            asyncio.get_running_loop().call_soon(os.write, writer, b"x")
            assert os.read(reader, 1) == b"x"

    hybridexec.run(main())
    assert not lwps()


def test_a_preempted_step_gets_the_loop_where_there_is_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """It alone can end the block of the only other LWP."""
    begin = threading.Thread.start
    enough = threading.Event()

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("hybridexec-lwp-") and enough.is_set():
            raise RuntimeError("can't start new thread")
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    order: list[str] = []

    async def main() -> None:
        lock = threading.Lock()
        lock.acquire()

        async def holder() -> None:
            while "wants" not in order:  # it is preempted
                pass
            lock.release()

        async def wanter() -> None:
            order.append("wants")
            assert lock.acquire(timeout=100)
            order.append("has")

        time.sleep(0.002)  # there is one spare
        while running_loop().stats().lwps_alive < 2:
            await asyncio.sleep(0)
        enough.set()
        await asyncio.gather(holder(), wanter())

    hybridexec.run(main(), preempt=0.01, spare_lwps=0)
    assert order == ["wants", "has"]
