"""A loop that stops and runs again, with steps blocked meanwhile; loops one after the other, and side by side."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import pytest
from helpers import LIBC, pipe, running_loop
from steps import Step, on_a_spare

import hybridexec
from hybridexec import HybridLoop

pytestmark = pytest.mark.differs_by_engine


def test_a_step_that_is_blocked_when_the_loop_stops_goes_on_in_the_next_run(loop: HybridLoop) -> None:
    with Step(loop) as step:
        on_a_spare(loop, step)
        step.release()

        async def next_run() -> None:
            while not step.went_on.is_set():
                await asyncio.sleep(0.001)

        loop.run_until_complete(next_run())


def test_a_step_that_comes_back_while_the_loop_is_stopped_waits_for_the_next_run(loop: HybridLoop) -> None:
    order: list[str] = []
    with Step(loop, lambda: order.append("step")) as step:
        on_a_spare(loop, step)
        step.release()
        assert not step.went_on.wait(0.02)
        order.append("stopped")
        loop.call_soon(order.append, "run")
        loop.call_soon(lambda: loop.call_soon(loop.stop))
        loop.run_forever()
        while not step.went_on.is_set():
            loop.run_until_complete(asyncio.sleep(0))
    assert order[0] == "stopped"
    assert sorted(order) == ["run", "step", "stopped"]


def test_many_runs_with_a_step_blocked_all_the_time(loop: HybridLoop) -> None:
    async def moves() -> int:
        with pipe() as (reader, writer):
            asyncio.get_running_loop().call_soon(os.write, writer, b"x")
            os.read(reader, 1)
        await asyncio.sleep(0)
        return running_loop().stats().lwps_blocked

    with Step(loop) as step:
        on_a_spare(loop, step)
        for _ in range(20):
            assert loop.run_until_complete(moves()) == 1
        step.release()
        loop.run_until_complete(moves())
        while not step.went_on.is_set():
            loop.run_until_complete(moves())


def test_the_home_may_be_another_thread_the_next_time(loop: HybridLoop) -> None:
    homes: list[threading.Thread] = []

    async def main() -> None:
        await asyncio.sleep(0)
        homes.append(threading.current_thread())
        with pipe() as (reader, writer):
            asyncio.get_running_loop().call_soon(os.write, writer, b"x")
            os.read(reader, 1)

    with Step(loop) as step:
        on_a_spare(loop, step)
        for _ in range(2):
            thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
            thread.start()
            thread.join()
            loop.run_until_complete(main())
        step.release()
        while not step.went_on.is_set():
            loop.run_until_complete(main())
    assert [home is threading.main_thread() for home in homes[:4]] == [False, True, False, True]


def test_stop_waits_for_a_home_that_is_blocked_and_the_loop_goes_on_meanwhile(loop: HybridLoop) -> None:
    """Only a callback that is scheduled after stop() ends what the home is blocked in."""
    order: list[str] = []
    with Step(loop, lambda: order.append("home goes on")) as home:

        def stops() -> None:
            order.append("stop")
            loop.stop()
            loop.call_later(0.002, releases)

        def releases() -> None:
            order.append("releases")
            home.release()

        loop.call_soon(home)
        loop.call_soon(stops)
        loop.run_forever()
    assert order == ["stop", "releases", "home goes on"]


@pytest.mark.parametrize("idle", [True, False])
def test_stop_from_a_thread_while_a_step_is_blocked(loop: HybridLoop, idle: bool) -> None:
    with Step(loop) as step:

        def spins() -> None:
            if not stopped.is_set():
                loop.call_soon(spins)

        def stops() -> None:
            step.blocked.wait()
            loop.call_soon_threadsafe(loop.stop)
            stopped.set()

        stopped = threading.Event()
        on_a_spare(loop, step)
        thread = threading.Thread(target=stops)
        thread.start()
        if not idle:
            loop.call_soon(spins)
        loop.run_forever()
        thread.join()
        assert not step.went_on.is_set()
        step.release()
        while not step.went_on.is_set():
            loop.run_until_complete(asyncio.sleep(0))


def test_stop_before_the_loop_runs_lets_one_turn_through() -> None:
    def play(loop: asyncio.AbstractEventLoop) -> list[str]:
        order: list[str] = []
        loop.call_soon(order.append, "ready")
        loop.call_soon(lambda: loop.call_soon(order.append, "later"))
        loop.stop()
        loop.run_forever()
        order.append("stopped")
        loop.stop()
        loop.run_forever()
        loop.close()
        return order

    expected = play(asyncio.SelectorEventLoop())
    assert expected == ["ready", "stopped", "later"]
    assert play(hybridexec.new_event_loop()) == expected


def test_two_runs_one_after_the_other() -> None:
    async def main(n: int) -> int:
        time.sleep(0.001)
        LIBC.usleep(1000)
        await asyncio.sleep(0)
        return n

    assert [hybridexec.run(main(n)) for n in range(10)] == list(range(10))


def test_two_loops_at_once_release_each_other() -> None:
    """A step of each is blocked until another step of the other has run, while its own loop goes on."""
    results: list[str] = []
    failures: list[BaseException] = []
    ring = [os.pipe(), os.pipe()]
    meeting = threading.Barrier(2)

    async def main(mine: int) -> None:
        meeting.wait()  # at once

        async def reads() -> None:
            for _ in range(20):
                os.read(ring[mine][0], 1)
                await asyncio.sleep(0)

        async def writes() -> None:
            for _ in range(20):
                os.write(ring[1 - mine][1], b"x")
                await asyncio.sleep(0)

        await asyncio.gather(reads(), writes())
        results.append("done")

    def home(mine: int) -> None:
        try:
            hybridexec.run(main(mine))
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=home, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for fd in (fd for pair in ring for fd in pair):
        os.close(fd)
    assert not failures
    assert results == ["done", "done"]


def test_loops_begin_and_end_all_the_time_in_several_threads() -> None:
    """The sampler and the detector's tool id are shared, taken and given back."""
    failures: list[BaseException] = []

    async def main() -> None:
        with pipe() as (reader, writer):
            asyncio.get_running_loop().call_soon(os.write, writer, b"x")
            os.read(reader, 1)
            asyncio.get_running_loop().call_later(0.001, os.write, writer, b"x")
            LIBC.read(reader, b" ", 1)

    def home() -> None:
        try:
            for _ in range(8):
                hybridexec.run(main())
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=home) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
