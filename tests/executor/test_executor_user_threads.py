"""Handles of user threads: what they tell, how they are cancelled, and what binds them to an LWP."""

from __future__ import annotations

import _thread
import asyncio
import concurrent.futures
import functools
import sqlite3
import threading
from typing import Any

import pytest
from executors import PATIENCE, Busy, every_model, every_moving, executing, forever, gate, in_state

from hybridexec import UserThreadState


@every_model
def test_a_handle_has_a_name_and_a_result(options: dict[str, Any]) -> None:
    with executing(**options) as executor:
        named = executor.spawn(len, "abc", name="named")
        other = executor.spawn(len, "abcd")
        assert named.name == "named"
        assert other.name.startswith("user-thread-")
        assert named.result(PATIENCE) == 3
        assert named.exception() is None
        assert named.done()
        assert not named.cancelled()
        assert named.state is UserThreadState.DONE
        assert named.lwp is None
        assert named.site is None
        assert named.age > 0
        assert not named.cancel()
        assert "named" in repr(named)
        with pytest.raises(TypeError):
            raise executor.spawn(len).exception(PATIENCE) or AssertionError


@every_moving
def test_the_states_of_a_user_thread(options: dict[str, Any]) -> None:
    busy = Busy()

    async def life(resume: list[asyncio.Event]) -> None:
        resume.append(asyncio.Event())
        await resume[0].wait()
        closed.enter()
        await asyncio.sleep(0)
        busy()

    with gate() as closed, executing(**options) as executor:
        resume: list[asyncio.Event] = []
        thread = executor.spawn(life, resume, name="life")
        in_state(thread, UserThreadState.WAITING)
        assert thread.lwp is None
        assert thread.site is None
        loop = resume[0]._loop  # type: ignore[attr-defined]
        loop.call_soon_threadsafe(resume[0].set)
        closed.reached()
        in_state(thread, UserThreadState.BLOCKED)
        assert thread.site is not None
        assert "threading" in thread.site.file
        assert thread.lwp in {each.name for each in threading.enumerate()}
        (info,) = executor.threads()
        assert (info.name, info.state, info.bound) == ("life", UserThreadState.BLOCKED, False)
        assert info.loop in executor.stats().loops
        assert info.lwp == thread.lwp
        assert info.site == thread.site
        for word in ("life", "blocked", info.loop, str(info.site)):
            assert word in str(info)
        closed.open()
        assert busy.began.wait(PATIENCE)
        in_state(thread, UserThreadState.RUNNING)
        assert thread.lwp is not None
        busy.end()
        thread.result(PATIENCE)
        assert thread.state is UserThreadState.DONE
        assert not executor.threads()


def test_one_behind_a_computing_step_is_ready() -> None:
    busy = Busy()
    with executing(1) as executor:
        computing = executor.spawn(busy, name="computing")
        assert busy.began.wait(PATIENCE)
        behind = executor.spawn(len, "abc", name="behind")
        assert behind.state is UserThreadState.READY
        assert computing.state is UserThreadState.RUNNING
        assert [info.name for info in executor.threads()] == ["computing", "behind"]
        assert executor.stats().queued == 1
        busy.end()
        assert behind.result(PATIENCE) == 3


@pytest.mark.parametrize("options", [{"model": "n:1"}, {"model": "1:1"}], ids=["n:1", "1:1"])
def test_states_on_loops_that_do_not_move(options: dict[str, Any]) -> None:
    busy = Busy()

    async def computes() -> None:
        await asyncio.sleep(0)
        busy()

    with executing(**options) as executor:
        waiting = executor.spawn(forever)
        in_state(waiting, UserThreadState.WAITING)
        computing = executor.spawn(computes)
        assert busy.began.wait(PATIENCE)
        assert computing.state is UserThreadState.RUNNING
        assert computing.lwp in {thread.name for thread in threading.enumerate()}
        assert waiting.state is UserThreadState.WAITING
        busy.end()
        computing.result(PATIENCE)
        waiting.cancel()


# ---------------------------------------------------------------- models


def test_each_has_an_lwp_and_a_loop_of_its_own_in_the_model_1_to_1() -> None:
    """And so each may block."""
    barrier = threading.Barrier(10)

    async def meets() -> tuple[int, int]:
        barrier.wait(PATIENCE)
        return _thread.get_ident(), id(asyncio.get_running_loop())

    with executing(model="1:1") as executor:
        found = list(executor.map(lambda _: meets(), range(10)))
        assert len({ident for ident, _ in found}) == 10
        assert len({loop for _, loop in found}) == 10


def test_so_many_have_an_lwp_at_a_time_in_the_model_1_to_1() -> None:
    with gate() as closed, executing(2, model="1:1") as executor:
        threads = [executor.spawn(closed.enter, number) for number in range(5)]
        closed.reached(2)
        assert [thread.state for thread in threads[2:]] == [UserThreadState.READY] * 3
        assert executor.stats().queued == 3
        assert executor.stats().lwps == 2
        assert threads[3].cancel()
        closed.open()
        assert [thread.result(PATIENCE) for thread in threads if not thread.cancelled()] == [0, 1, 2, 4]


@pytest.mark.parametrize("how", ["1:1", "bound"])
def test_who_end_at_once_start_who_come_after_them(how: str) -> None:
    """Each that ends starts another, and waits for those that have ended: not for one that waits for it."""
    barrier = threading.Barrier(3)
    for _ in range(10):
        options: dict[str, Any] = {"model": "1:1", "loops": 3} if how == "1:1" else {"max_lwps": 3}
        with executing(**options) as executor:
            spawn = functools.partial(executor.spawn, **({} if how == "1:1" else {"bound": True}))
            threads = [spawn(barrier.wait, PATIENCE) for _ in range(15)]
            assert sorted(thread.result(PATIENCE) for thread in threads) == sorted([0, 1, 2] * 5)


def test_who_blocks_holds_up_everybody_in_the_model_n_to_1() -> None:
    with gate() as closed, executing(model="n:1") as executor:
        blocked = executor.spawn(closed.enter_async)
        closed.reached()
        behind = executor.spawn(len, "abc")
        with pytest.raises(TimeoutError):
            behind.result(0.05)
        assert behind.state is UserThreadState.READY
        closed.open()
        assert behind.result(PATIENCE) == 3
        assert blocked.result(PATIENCE) is None


# ---------------------------------------------------------------- bound


@every_model
def test_a_bound_one_takes_every_step_on_one_lwp_that_nobody_else_uses(options: dict[str, Any]) -> None:
    local = threading.local()

    async def steps(number: int) -> set[int]:
        local.number = number
        seen = set()
        for _ in range(20):
            seen.add(_thread.get_ident())
            assert local.number == number
            await asyncio.sleep(0.001)
            threading.Event().wait(0.001)
        return seen

    with executing(**options) as executor:
        bound = [executor.spawn(steps, number, bound=True) for number in range(3)]
        free = [executor.spawn(_thread.get_ident) for _ in range(20)]
        seen = [thread.result(PATIENCE) for thread in bound]
        assert all(len(idents) == 1 for idents in seen)
        assert len(set.union(*seen)) == 3
        assert not set.union(*seen) & {thread.result(PATIENCE) for thread in free}


@every_moving
def test_a_bound_one_may_keep_what_belongs_to_a_thread(options: dict[str, Any]) -> None:
    async def uses_sqlite() -> list[tuple[int]]:
        connection = sqlite3.connect(":memory:")  # it refuses every other thread
        connection.execute("create table numbers (number)")
        await asyncio.sleep(0)
        connection.execute("insert into numbers values (1)")
        await asyncio.sleep(0.001)
        try:
            return connection.execute("select * from numbers").fetchall()
        finally:
            connection.close()

    with executing(**options) as executor:
        threads = [executor.spawn(uses_sqlite, bound=True) for _ in range(4)]
        assert [thread.result(PATIENCE) for thread in threads] == [[(1,)]] * 4


@every_moving
def test_a_bound_one_that_blocks_holds_up_nobody(options: dict[str, Any]) -> None:
    async def released_by_others() -> str:
        await asyncio.sleep(0)
        return str(closed.enter("released"))

    with gate() as closed, executing(**options) as executor:
        bound = executor.spawn(released_by_others, bound=True, name="bound")
        closed.reached()
        (info,) = executor.threads()
        assert info.bound
        assert info.loop == bound.lwp
        executor.submit(closed.open).result(PATIENCE)
        assert bound.result(PATIENCE) == "released"


@every_model
def test_a_bound_one_is_cancelled(options: dict[str, Any]) -> None:
    with executing(**options) as executor:
        started = threading.Event()
        bound = executor.spawn(forever, started, bound=True)
        assert started.wait(PATIENCE)
        assert bound.cancel()
        with pytest.raises(concurrent.futures.CancelledError):
            bound.result(PATIENCE)
        assert bound.cancelled()
        assert bound.cancel()


@every_model
@pytest.mark.parametrize("bound", [False, True])
def test_a_loop_that_is_told_to_stop_goes_on(options: dict[str, Any], bound: bool) -> None:
    """It is the executor's, and other user threads need it."""

    async def stops() -> str:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.01)
        return "went on"

    with executing(**options) as executor:
        assert executor.spawn(stops, bound=bound).result(PATIENCE) == "went on"
