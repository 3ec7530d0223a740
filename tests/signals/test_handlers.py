"""Signal handlers of ``signal.signal`` are the loop's Python code: nothing else of the loop runs while one does."""

from __future__ import annotations

import pytest
from playing import play
from programs import alone

pytestmark = [pytest.mark.differs_by_engine, pytest.mark.differs_by_version]


@pytest.mark.parametrize("home", alone.HOMES)
@pytest.mark.parametrize("waiters", [1, 100])
def test_nothing_runs_beside_a_handler(home: str, waiters: int) -> None:
    """Wherever the home is, and whether the others have something to do: what it waits for comes after the handler."""
    play(alone.nothing_runs_beside, home, waiters)


def test_a_call_that_a_handler_interrupts_is_told_of_once() -> None:
    """It continues after the handler as if nothing had happened."""
    lines = play(alone.interrupted_call)
    assert lines == ["blocked _thread.lock.acquire", "unblocked _thread.lock.acquire"], lines


def test_a_step_that_computes_lends_the_loop() -> None:
    """The home is blocked, and another step waits for the handler without a call.  It resumes before all others."""
    play(alone.computing_step_lends_the_loop)


def test_a_handler_does_not_wait_for_ever() -> None:
    """A pinned step waits for it, and lends nothing."""
    play(alone.pinned_step_waits)


def test_all_lwps_are_blocked() -> None:
    """The handler has the loop, which is free; and it can end what blocks them."""
    play(alone.all_lwps_are_blocked)


@pytest.mark.parametrize("raises", [False, True])
def test_a_handler_that_blocks_in_a_blocked_step(raises: bool) -> None:
    """Others run meanwhile, and it returns before its step resumes: no code runs without the loop."""
    play(alone.blocks_in_a_blocked_step, raises)
