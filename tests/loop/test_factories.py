"""The names by which others get a loop, and what a loop says of itself when it begins."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable

import pytest
from helpers import Recorder

import hybridexec
from hybridexec import BlockingCallError, HybridLoop, UpcallKind, _core

FACTORIES = [
    (hybridexec.new_event_loop, "handoff"),
    (hybridexec.observe_event_loop, "observe"),
    (hybridexec.raise_event_loop, "raise"),
]


class Kept(Recorder):
    """What the environment can name: it keeps itself."""

    latest: Kept

    def __init__(self) -> None:
        super().__init__()
        Kept.latest = self


async def blocks() -> str:
    time.sleep(0.0011)
    return "slept"


@pytest.mark.parametrize(("factory", "mode"), FACTORIES)
def test_a_factory_has_its_mode_and_the_rest_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, factory: Callable[[], HybridLoop], mode: str
) -> None:
    monkeypatch.setenv("HYBRIDEXEC_MAX_LWPS", "7")
    if factory is not hybridexec.new_event_loop:
        monkeypatch.setenv("HYBRIDEXEC_MODE", "handoff")  # what the name says wins
    loop = factory()
    assert (loop.config.mode, loop.config.max_lwps) == (mode, 7)
    loop.close()


def test_observe_reports_to_the_instruments_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDEXEC_INSTRUMENTS", f"{__name__}:Kept")
    with asyncio.Runner(loop_factory=hybridexec.observe_event_loop) as runner:
        assert runner.run(blocks()) == "slept"
        loop = runner.get_loop()
        assert isinstance(loop, HybridLoop)
        assert loop.stats().handoffs == 0
    assert [upcall.callable for upcall in Kept.latest.of(UpcallKind.BLOCKED)] == ["time.sleep"]


def test_raise_raises_in_the_blocking_step() -> None:
    with asyncio.Runner(loop_factory=hybridexec.raise_event_loop) as runner:
        with pytest.raises(BlockingCallError, match=r"time\.sleep blocks the event loop at .*test_factories\.py"):
            runner.run(blocks())


@pytest.mark.parametrize(("factory", "mode"), FACTORIES)
def test_a_loop_says_what_it_is_when_it_first_runs(
    caplog: pytest.LogCaptureFixture, factory: Callable[[], HybridLoop], mode: str
) -> None:
    caplog.set_level(logging.DEBUG, "hybridexec")
    loop = factory()
    assert not caplog.records
    (tool,) = (number for number in range(6) if sys.monitoring.get_tool(number) == "hybridexec")
    for _ in range(2):
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("hybridexec", logging.DEBUG)
    said = record.getMessage()
    assert said.startswith("HybridLoop at 0x")
    runs = f"runs: engine {loop.engine_name}, core {_core.name}, mode {mode}"
    assert said.endswith(f"{runs}, tool id {tool} of sys.monitoring")
    assert loop.engine_name in ("native", "selector", "uvloop")


def test_it_says_nothing_where_nobody_wants_to_know(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "hybridexec")
    hybridexec.run(asyncio.sleep(0))
    assert not caplog.records
