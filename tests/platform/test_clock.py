"""Tools that make time stand still, or go elsewhere: this package's clocks are the real ones."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import ENGINES, Scene, play, start

import hybridexec
from hybridexec import UpcallKind
from hybridexec.platform import clock


@contextlib.contextmanager
def frozen() -> Iterator[None]:
    freezegun = pytest.importorskip("freezegun")
    with freezegun.freeze_time("2022-01-01"):
        yield


@contextlib.contextmanager
def travelling() -> Iterator[None]:
    time_machine = pytest.importorskip("time_machine")
    with time_machine.travel(0, tick=False):
        yield


@contextlib.contextmanager
def replaced() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("time", "monotonic", "perf_counter"):
            patch.setattr(time, name, lambda: 1.0)
        yield


TOOLS = pytest.mark.parametrize("tool", [frozen, travelling, replaced])
type Tool = Callable[[], contextlib.AbstractContextManager[None]]


@TOOLS
def test_a_loop_moves_and_blocks_are_measured(tool: Tool) -> None:
    event = threading.Event()
    before = clock.monotonic()
    with tool():
        scene: Scene = play(event.wait, event.set)
    after = clock.monotonic()
    assert scene.moved
    (blocked,) = scene.recorder.of(UpcallKind.BLOCKED, "blocker")
    (unblocked,) = scene.recorder.of(UpcallKind.UNBLOCKED, "blocker")
    assert before <= blocked.time <= unblocked.time <= after
    assert unblocked.duration is not None
    assert 0 <= unblocked.duration <= after - before


async def sleeps() -> str:
    freezegun = pytest.importorskip("freezegun")
    with freezegun.freeze_time("2022-01-01", real_asyncio=True):
        assert time.time() == 1640995200
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(0.01)
        assert asyncio.get_running_loop().time() > began
    return "slept"


def test_sleep_ends_where_asyncio_s_time_is_to_be_real() -> None:
    assert asyncio.run(sleeps()) == "slept"
    assert hybridexec.run(sleeps()) == "slept"


def loop_time_stands(run: Callable[..., Any], **options: Any) -> bool:
    async def main() -> bool:
        with frozen():
            loop = asyncio.get_running_loop()
            began, real = loop.time(), clock.monotonic()
            while clock.monotonic() < real + 0.005:
                pass
            return loop.time() == began

    return bool(run(main(), **options))


def test_else_the_loop_s_time_is_that_of_its_engine() -> None:
    assert loop_time_stands(asyncio.run)
    assert loop_time_stands(hybridexec.run, engine="selector")
    uvloop = pytest.importorskip("uvloop")
    assert not loop_time_stands(uvloop.run)
    for engine in set(ENGINES) - {"selector"}:
        assert not loop_time_stands(hybridexec.run, engine=engine)


def test_time_stood_still_when_the_package_was_imported() -> None:
    pytest.importorskip("freezegun")
    process = start(
        """
        import asyncio, freezegun, threading
        with freezegun.freeze_time("2022-01-01"):
            import hybridexec

        async def main():
            event = threading.Event()
            asyncio.get_running_loop().call_soon(event.set)
            event.wait()
            await asyncio.sleep(0.01)

        for engine in "auto", "uvloop":
            hybridexec.run(main(), engine=engine)
            with freezegun.freeze_time("2022-01-01", real_asyncio=True):
                hybridexec.run(main(), engine=engine)
        print(hybridexec.platform.clock.monotonic() != hybridexec.platform.clock.monotonic())
        """
    )
    output, _ = process.communicate(timeout=60)
    assert output == "True\n"
