"""User threads over loops that move: who blocks holds up nobody, and who waits behind a busy loop goes to another.

A step blocks on what only another user thread of the same loop can release: the test ends only if the loop has moved.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import os
import threading
import time
from typing import Any

import pytest
from executors import (
    PATIENCE,
    Busy,
    every_engine,
    every_moving,
    executing,
    forever,
    gate,
    in_state,
    read,
    several_moving,
    until,
)
from helpers import LIBC, Recorder, holds, pipe

import hybridexec
from hybridexec import Detection, HybridExecutor, UpcallKind, UserThreadState


@every_engine
@pytest.mark.parametrize("first", ["function", "coroutine"])
@pytest.mark.parametrize("second", ["function", "coroutine"])
def test_the_loop_leaves_who_blocks(engine: str, first: str, second: str) -> None:
    def blocks(ends: tuple[int, int]) -> bytes:
        got = read(ends)
        assert holds(asyncio.get_running_loop())
        return got

    async def blocks_async(ends: tuple[int, int]) -> bytes:
        await asyncio.sleep(0)
        return blocks(ends)

    async def release_async(ends: tuple[int, int]) -> None:
        release(ends)

    def release(ends: tuple[int, int]) -> None:
        os.write(ends[1], b"x")

    with pipe() as ends, executing(1, engine=engine) as executor:
        blocked = executor.spawn(blocks if first == "function" else blocks_async, ends)
        in_state(blocked, UserThreadState.BLOCKED)
        executor.submit(release if second == "function" else release_async, ends)
        assert blocked.result(PATIENCE) == b"x"
        assert executor.stats().loops["hybridexec-1"].handoffs >= 1


@every_moving
def test_as_many_as_there_may_be_block_at_once(options: dict[str, Any]) -> None:
    """Each waits for all the others."""
    count = 40
    barrier = threading.Barrier(count)
    with executing(**options) as executor:
        futures = [executor.submit(barrier.wait, PATIENCE) for _ in range(count)]
        assert sorted(future.result(PATIENCE) for future in futures) == list(range(count))


@every_engine
def test_a_callable_in_c_is_seen_to_block(engine: str) -> None:
    recorder = Recorder()
    with pipe() as ends, executing(1, engine=engine, instruments=[recorder]) as executor:
        blocked = executor.spawn(os.read, ends[0], 1, name="reader")
        in_state(blocked, UserThreadState.BLOCKED)
        assert blocked.site is not None
        executor.submit(os.write, ends[1], b"x")
        assert blocked.result(PATIENCE) == b"x"
    (upcall,) = recorder.of(UpcallKind.BLOCKED, "reader")
    assert upcall.callable == "posix.read"
    assert upcall.detection is Detection.DECLARED


@every_engine
def test_a_callable_in_c_that_nobody_has_declared_is_discovered(engine: str) -> None:
    """Once: then the place where the executor calls what it is given is known."""
    recorder = Recorder()
    with pipe() as ends, executing(1, engine=engine, instruments=[recorder]) as executor:
        blocked = executor.spawn(functools.partial(LIBC.read, ends[0]), bytes(1), 1, name="reader")
        in_state(blocked, UserThreadState.BLOCKED)
        executor.submit(os.write, ends[1], b"x")
        assert blocked.result(PATIENCE) == 1
    (detection,) = recorder.detections("reader")
    assert detection in (Detection.DISCOVERED, Detection.DECLARED)


@every_engine
def test_upcalls_name_the_user_thread(engine: str) -> None:
    recorder = Recorder()

    async def first_step(ends: tuple[int, int]) -> bytes:
        return read(ends)

    async def second_step(ends: tuple[int, int]) -> bytes:
        await asyncio.sleep(0)
        return read(ends)

    with executing(1, engine=engine, instruments=[recorder]) as executor:
        for name, fn in {"function": read, "first step": first_step, "second step": second_step}.items():
            with pipe() as ends:
                blocked = executor.spawn(fn, ends, name=name)
                in_state(blocked, UserThreadState.BLOCKED)
                os.write(ends[1], b"x")
                assert blocked.result(PATIENCE) == b"x"
            assert len(recorder.of(UpcallKind.BLOCKED, name)) == 1


@every_engine
@pytest.mark.parametrize("where", ["first step", "second step"])
def test_an_rlock_held_across_an_await_follows_the_loop(engine: str, where: str) -> None:
    """Its owner is a thread: so it is whichever carries the loop, that has gone elsewhere meanwhile."""
    lock = threading.RLock()

    async def holds_it(ends: tuple[int, int], resumed: asyncio.Event) -> None:
        if where == "second step":
            await asyncio.sleep(0)
        lock.acquire()
        await resumed.wait()
        lock.release()

    async def main(executor: HybridExecutor) -> None:
        resumed = asyncio.Event()
        with pipe() as ends:
            task = asyncio.create_task(forever())
            executor.spawn(holds_it, ends, resumed)
            await asyncio.sleep(0)
            until_owned = executor.spawn(threading.Event().wait, 0.01)
            await until_owned
            resumed.set()
            task.cancel()

    with executing(1, engine=engine) as executor:
        executor.submit(main, executor).result(PATIENCE)
    assert lock.acquire(blocking=False)
    lock.release()


@every_engine
def test_pinned_keeps_the_loop(engine: str) -> None:
    order: list[str] = []

    def pins() -> None:
        with hybridexec.pinned():
            time.sleep(0.01)
            order.append("pinned")

    async def both(executor: HybridExecutor) -> None:
        await asyncio.gather(
            executor.run(pins),
            executor.run(order.append, "other"),
        )

    with executing(1, engine=engine) as executor:
        executor.submit(both, executor).result(PATIENCE)
    assert order == ["pinned", "other"]


# ---------------------------------------------------------------- placement


@several_moving
def test_new_ones_go_to_the_least_loaded_loop(options: dict[str, Any]) -> None:
    count = options["loops"]
    with executing(**options) as executor:
        threads = [executor.spawn(forever) for _ in range(3 * count)]
        for thread in threads:
            in_state(thread, UserThreadState.WAITING)
        loads = collections.Counter(info.loop for info in executor.threads())
        assert sum(loads.values()) == 3 * count
        assert executor.stats().moved or list(loads.values()) == [3] * count  # a machine with moods may have moved some
        for thread in threads:
            thread.cancel()


@several_moving
@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_one_that_has_not_started_leaves_a_busy_loop(options: dict[str, Any], kind: str) -> None:
    """A step computes until one that was placed behind it has run."""
    busy = Busy()

    async def end() -> None:
        busy.end()

    with executing(**options) as executor:
        computing = executor.spawn(busy)
        assert busy.began.wait(PATIENCE)
        # The other loops are given more that wait, so what comes then is placed behind the busy one.
        waiting = [executor.spawn(forever) for _ in range(3 * options["loops"])]
        for thread in waiting:
            in_state(thread, UserThreadState.WAITING)
        fn: Any = (lambda: None) if kind == "function" else forever_not
        for other in [executor.spawn(fn) for _ in range(4 * options["loops"])]:
            other.result(PATIENCE)
        assert computing.state is not UserThreadState.DONE  # whatever a busy machine makes it look like
        assert executor.stats().moved >= 1
        executor.submit(end).result(PATIENCE)
        assert computing.result(PATIENCE) == "computed"
        for thread in waiting:
            thread.cancel()


async def forever_not() -> None:
    await asyncio.sleep(0)


@several_moving
def test_one_that_has_not_started_leaves_a_loop_without_spares(options: dict[str, Any]) -> None:
    """Every LWP that a loop may have is blocked in it; what is placed there goes elsewhere."""
    with gate() as closed, executing(**options, max_lwps=2) as executor:
        blocked = [executor.spawn(closed.enter) for _ in range(2 * options["loops"] - 1)]
        closed.reached(len(blocked))
        # One LWP is left, in one of the loops.
        others = [executor.spawn(len, "abc") for _ in range(4 * options["loops"])]
        for other in others:
            assert other.result(PATIENCE) == 3
        closed.open()
        assert [thread.result(PATIENCE) for thread in blocked] == [None] * len(blocked)


@several_moving
def test_one_that_has_started_stays_with_its_loop(options: dict[str, Any]) -> None:
    async def loops() -> set[int]:
        seen = set()
        for _ in range(20):
            seen.add(id(asyncio.get_running_loop()))
            time.sleep(0.001)
            await asyncio.sleep(0)
        return seen

    with executing(**options) as executor:
        found = [future.result(PATIENCE) for future in [executor.submit(loops) for _ in range(12)]]
        assert all(len(seen) == 1 for seen in found)
        assert len(set.union(*found)) > 1  # one that begins late may find that others have taken everything


def test_a_loop_that_gets_idle_later_takes_what_waits() -> None:
    """Both are busy when it is placed; it goes to the one that is free first, wherever it was placed."""
    for release in (0, 1):
        busy = [Busy(), Busy()]
        with executing(2) as executor:
            computing = [executor.spawn(step) for step in busy]
            for step in busy:
                assert step.began.wait(PATIENCE)
            waiting = [executor.spawn(len, "abc") for _ in range(4)]
            busy[release].end()
            assert computing[release].result(PATIENCE) == "computed"
            assert [thread.result(PATIENCE) for thread in waiting] == [3] * 4
            assert computing[1 - release].state is not UserThreadState.DONE
            busy[1 - release].end()


@several_moving
def test_one_that_is_cancelled_in_the_queue_is_not_moved(options: dict[str, Any]) -> None:
    called: list[int] = []
    busy = [Busy() for _ in range(options["loops"])]
    with executing(**options) as executor:
        for step in busy:
            executor.spawn(step)
        for step in busy:
            assert step.began.wait(PATIENCE)
        futures = [executor.submit(called.append, number) for number in range(8)]
        assert all(future.cancel() for future in futures[::2])
        for step in busy:
            step.end()
    assert sorted(called) == [1, 3, 5, 7]


# ---------------------------------------------------------------- fairness


@every_moving
def test_ten_thousand_that_are_ready_all_come_on(options: dict[str, Any]) -> None:
    count = 10_000 if options.get("loops", 1) == 1 else 1_000  # busy loops fight for the GIL
    steps = collections.Counter[int]()
    enough = False

    async def never_waits(number: int) -> None:
        while not enough:
            steps[number] += 1
            await asyncio.sleep(0)

    with executing(**options) as executor:
        futures = [executor.submit(never_waits, number) for number in range(count)]
        until(lambda: len(steps) == count and min(list(steps.values())) >= 2)
        # It answers all the same: to a submit, and to a cancellation.
        assert executor.submit(len, "abc").result(PATIENCE) == 3
        assert futures[7].cancel()
        until(futures[7].cancelled)
        enough = True
    assert all(future.done() for future in futures)


@every_moving
def test_many_that_await_once(options: dict[str, Any]) -> None:
    async def once(number: int) -> int:
        await asyncio.sleep(0)
        return number

    with executing(**options) as executor:
        futures = [executor.submit(once, number) for number in range(5_000)]
        assert [future.result(PATIENCE) for future in futures] == list(range(5_000))
        assert executor.stats().done == 5_000
