"""What a step asks of the system for its thread holds for the loop, wherever it goes."""

from __future__ import annotations

import _thread
import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from steps import elsewhere

import hybridexec
from hybridexec import placing
from hybridexec.lwp import LWP

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what belongs to a thread here belongs to processes")


def _mask() -> Any:
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


def _fewer() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _block() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})


def _nice() -> None:
    os.nice(1)


def _set_priority() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + 1)


def _priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


ASKS: list[tuple[Callable[[], None], Callable[[], Any]]] = [
    (_fewer, lambda: os.sched_getaffinity(0)),
    (_block, _mask),
    (_nice, _priority),
    (_set_priority, _priority),
]


@pytest.mark.parametrize(("ask", "get"), ASKS, ids=lambda ask: ask.__name__.strip("_<>"))
@pytest.mark.parametrize("place", ["home", "spare"])
def test_what_a_step_asks_for_holds_on_every_thread(
    ask: Callable[[], None], get: Callable[[], Any], place: str
) -> None:
    found: list[Any] = []
    threads: set[int] = set()

    async def looks() -> None:
        threads.add(_thread.get_ident())
        found.append(get())

    async def asks() -> None:
        ask()
        await looks()

    async def main() -> None:
        before = get()
        await elsewhere(elsewhere(asyncio.sleep(0)))  # there are spares that know nothing of it
        await (asks() if place == "home" else elsewhere(asks()))
        await elsewhere(elsewhere(looks()))
        await looks()
        assert found[0] != before or ask is _fewer

    thread = threading.Thread(target=lambda: hybridexec.run(main()))  # what is asked for ends with it
    thread.start()
    thread.join()
    assert len(found) == 3
    assert len(threads) > 1
    assert found[0] == found[1] == found[2]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one processor")
def test_an_lwp_that_is_woken_near_its_waker_may_run_anywhere_again() -> None:
    before = os.sched_getaffinity(0)
    near: list[int] = []
    found: list[set[int]] = []
    threads: set[int] = set()

    async def blocks() -> None:
        for _ in range(30):
            time.sleep(0.001)
            found.append(os.sched_getaffinity(0))
            threads.add(_thread.get_ident())
            await asyncio.sleep(0)
            found.append(os.sched_getaffinity(0))

    async def main() -> None:
        all_three = asyncio.gather(blocks(), blocks(), blocks())
        while not all_three.done():  # there is always work for whom the loop is left to
            found.append(os.sched_getaffinity(0))
            await asyncio.sleep(0)
        await all_three

    def counted(lwp: Any) -> None:
        near.append(lwp.native)
        placed(lwp)

    placed = placing.near
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placing, "near", counted)
        hybridexec.run(main())
    assert near
    assert len(threads) > 1
    assert all(each == before for each in found)
    assert os.sched_getaffinity(0) == before


@pytest.mark.skipif(not placing.CAN, reason="the system does not let us")
def test_a_thread_is_placed_and_takes_back_what_it_may_use() -> None:
    before = os.sched_getaffinity(0)
    lwp: Any = LWP(None, "")  # type: ignore[arg-type]
    lwp.native = threading.get_native_id()
    placing.near(lwp)
    assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) <= before
    assert (lwp.processors is None) is (len(before) == 1)
    if lwp.processors is not None:
        placing.anywhere(lwp)
    assert lwp.processors is None
    assert os.sched_getaffinity(0) == before


@pytest.mark.skipif(not placing.CAN or len(os.sched_getaffinity(0)) < 2, reason="there is one processor")
def test_what_somebody_else_allows_a_placed_thread_stays() -> None:
    """As ``taskset -a`` does."""
    before = os.sched_getaffinity(0)
    lwp: Any = LWP(None, "")  # type: ignore[arg-type]
    lwp.native = threading.get_native_id()
    try:
        placing.near(lwp)
        (here,) = os.sched_getaffinity(0)
        other = min(before - {here})
        os.sched_setaffinity(0, {other})
        placing.near(lwp)
        assert os.sched_getaffinity(0) == {other}
        placing.anywhere(lwp)
        assert os.sched_getaffinity(0) == {other}
        assert lwp.processors is None
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one processor")
def test_what_a_call_that_waits_has_started_may_run_anywhere() -> None:
    """Only calls that do no more than wait are placed."""
    before = os.sched_getaffinity(0)
    found: list[set[int]] = []

    async def starts() -> None:
        for _ in range(5):
            time.sleep(0.001)
            done = subprocess.run(
                [sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))"], capture_output=True, text=True
            )
            found.append(set(map(int, done.stdout.split())))
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(starts(), starts(), starts())

    hybridexec.run(main())
    assert all(each == before for each in found)
    assert len(found) == 15
