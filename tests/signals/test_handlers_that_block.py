"""Signal handlers of ``signal.signal`` that block where the home has no step: the loop runs without the home.

Each handler waits for what only a task of the loop can release.
"""

from __future__ import annotations

import pytest
from playing import play
from programs import blocking


@pytest.mark.parametrize("spares", [False, True], ids=["alone", "beside a spare"])
def test_the_home_polls(spares: bool) -> None:
    """A timer releases the handler: somebody else has to poll for it."""
    play(blocking.home_polls, spares)


def test_the_home_is_parked() -> None:
    """Another LWP carries the loop, and wakes the home, as it has nothing to run."""
    play(blocking.home_is_parked)


def test_the_home_waits_with_a_step() -> None:
    """The call of its step has returned, and it is the next to get the loop."""
    play(blocking.home_waits_with_a_step)


@pytest.mark.parametrize("waits", blocking.WAITS)
def test_a_handler_that_is_called_before_its_step_resumes(waits: str) -> None:
    """The home gets the loop back in a callback of the detector's, where the interpreter has no events for others."""
    play(blocking.called_before_its_step_resumes, waits)


def test_the_loop_stops_meanwhile() -> None:
    """It returns from run_forever when the handler has returned."""
    play(blocking.loop_stops_meanwhile)


def test_what_it_raises_comes_out_of_the_run() -> None:
    play(blocking.raises_out_of_the_run)


def test_one_that_interrupts_another() -> None:
    """The first one returns when the second one has returned."""
    play(blocking.interrupts_another)


def test_others_block_meanwhile() -> None:
    """As many as there may be LWPs beside the home."""
    play(blocking.others_block_meanwhile)


@pytest.mark.parametrize("mode", ["handoff", "observe", "raise"])
def test_it_is_told_of(mode: str) -> None:
    """With its site, like a step of no task; and where nothing is to be done about blocks, the loop stays."""
    lines = play(blocking.told_of, mode)
    assert lines == ["blocked declared None", "raised" if mode == "raise" else "unblocked True"]


def test_another_comes_when_one_that_has_interrupted_a_step_is_about_to_return() -> None:
    """The first one's call has returned, and waits for the loop, as a step does."""
    play(blocking.about_to_return_to_a_step)


def test_another_comes_when_the_home_is_about_to_poll_again() -> None:
    """The first one has blocked in the poll; it has returned, and the home waits for the loop, if it had it there."""
    play(blocking.about_to_poll_again)


def test_what_the_poll_has_found_is_out_of_date_when_the_handler_is_over() -> None:
    """It comes when the poll has found something; the others see to that meanwhile."""
    play(blocking.poll_has_found_something)
