"""What a step asks of the system for its thread holds for the loop, wherever it goes."""

from __future__ import annotations

import _thread
import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from steps import elsewhere

import hybridexec

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


def _note_origins() -> None:
    sys.set_coroutine_origin_tracking_depth(sys.get_coroutine_origin_tracking_depth() + 3)


def _priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


ASKS: list[tuple[Callable[[], None], Callable[[], Any]]] = [
    (_fewer, lambda: os.sched_getaffinity(0)),
    (_block, _mask),
    (_nice, _priority),
    (_set_priority, _priority),
    (_note_origins, sys.get_coroutine_origin_tracking_depth),
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
