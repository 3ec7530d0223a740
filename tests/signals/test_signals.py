"""Signals: Ctrl-C wherever the main thread is, and what only the main thread may do, from any LWP.

Each test is a program of its own (``programs/``), which prints what became of it.
"""

from __future__ import annotations

import signal

import pytest
from playing import launch, outcome, play
from programs import by_the_loop, ctrl_c, handling, main_thread, passed_on, raising

pytestmark = pytest.mark.differs_by_engine


# ---------------------------------------------------------------- Ctrl-C, asyncio.run's way


def test_ctrl_c_cancels_a_main_task_that_is_elsewhere_while_the_home_is_blocked() -> None:
    """Only what the main task does when it is cancelled releases the home."""
    play(ctrl_c.main_task_is_elsewhere)


@pytest.mark.parametrize("how", ctrl_c.BLOCKS)
def test_ctrl_c_cancels_a_main_task_that_is_blocked_at_home(how: str) -> None:
    """As on asyncio it gets its cancellation at its next await: the blocking call itself continues."""
    play(ctrl_c.main_task_is_blocked, how)


def test_ctrl_c_comes_while_the_home_is_parked() -> None:
    assert "parked is told" in play(ctrl_c.home_is_parked)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_comes_while_the_home_waits_for_its_turn(times: int) -> None:
    """The call of the home's step has returned; another step holds the loop.  The second Ctrl-C raises."""
    play(ctrl_c.home_waits_for_its_turn, times)


def test_ctrl_c_comes_while_the_home_carries_a_busy_step() -> None:
    play(ctrl_c.home_carries_a_busy_step)


@pytest.mark.parametrize("how", ctrl_c.ENDLESS)
def test_the_second_ctrl_c_breaks_the_blocking_call_at_home(how: str) -> None:
    """Nothing else would ever end the call: it raises KeyboardInterrupt, as on asyncio."""
    play(ctrl_c.second_breaks_the_call, how)


@pytest.mark.parametrize("how", passed_on.BLOCKS)
def test_the_second_ctrl_c_comes_up_in_a_main_task_that_is_blocked_on_a_spare(how: str) -> None:
    """Its call cannot be broken off: it ends because the log says that it is waited for.  The loop runs meanwhile."""
    play(passed_on.second_comes_up, how)


def test_the_third_ctrl_c_ends_the_run_although_the_main_task_is_still_blocked() -> None:
    """The log tells who waits for the tasks then; the main task has its cancellation."""
    play(passed_on.third_ends_the_run)


def test_what_was_passed_on_is_raised_out_of_the_run_if_the_step_raises_something_else() -> None:
    play(passed_on.step_raises_something_else)


def test_ctrl_c_from_outside_ends_the_program_as_asyncio_does() -> None:
    """The exit status and the traceback are those of a KeyboardInterrupt."""
    process = launch(ctrl_c.blocks_and_says_so, True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    status, lines, errors = outcome(process)
    assert lines == ["cancelled"]
    assert status == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_ctrl_c_twice_from_outside_ends_a_program_whose_call_never_ends() -> None:
    process = launch(ctrl_c.blocks_and_says_so, False)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "cancelled\n"
    process.send_signal(signal.SIGINT)
    status, lines, errors = outcome(process)
    assert lines == ["broken"]
    assert status == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")


# ---------------------------------------------------------------- handlers that raise, anywhere


def test_the_default_handler_raises_out_of_run_forever() -> None:
    """Wherever the loop is just then; and it can be run again."""
    play(raising.default_handler)


def test_ctrl_c_at_any_time_ends_run() -> None:
    """Tasks block all the time; Ctrl-C comes at random."""
    play(raising.ctrl_c_at_any_time)


def test_a_handler_that_raises_breaks_the_call_that_the_home_is_blocked_in() -> None:
    play(raising.breaks_the_call)


@pytest.mark.parametrize("known", [False, True], ids=["discovered", "declared"])
def test_a_handler_that_raises_after_a_call_that_looks_for_no_signals(known: bool) -> None:
    """It is called as soon as the call has returned; what it raises is raised when the home holds the loop again."""
    play(raising.after_a_deaf_call, known)


# ---------------------------------------------------------------- handlers


@pytest.mark.parametrize("body", ["nothing", "logs", "locks", "sleeps", "writes"])
def test_a_handler_runs_while_the_home_is_blocked(body: str) -> None:
    """Each time it is the home's step that has to be released by another, though the handler may block itself."""
    play(handling.home_is_blocked, body)


def test_a_signal_that_comes_just_before_the_call_is_handled_all_the_same() -> None:
    """CPython looks for signals no more once the instruction has begun, and the system call begins with one pending."""
    play(handling.just_before_the_call)


def test_a_program_keeps_its_handler_of_the_signal_that_nudges() -> None:
    play(handling.signal_that_nudges)


@pytest.mark.parametrize("body", ["nothing", "logs", "locks", "sleeps"])
def test_a_handler_runs_while_the_home_waits_for_its_turn(body: str) -> None:
    """The call of the home's step has returned, and another step holds the loop."""
    play(handling.home_waits_for_its_turn, body)


@pytest.mark.parametrize("body", ["nothing", "logs", "sleeps briefly"], ids=["nothing", "logs", "sleeps"])
def test_handlers_run_at_any_time(body: str) -> None:
    """Tasks block all the time, and signals come at random."""
    play(handling.at_any_time, body)


@pytest.mark.parametrize("where", ["at home", "on a spare"])
def test_the_loop_handles_signals(where: str) -> None:
    """``loop.add_signal_handler`` and its counterpart; the callback is a step like any other."""
    play(by_the_loop.callback_is_a_step, where)


def test_a_signal_of_the_loop_is_handled_while_the_home_is_blocked() -> None:
    """Only the loop's own handler of the signal releases the home."""
    play(by_the_loop.home_is_blocked)


def test_what_only_the_main_thread_may_do_is_done_for_a_spare() -> None:
    play(main_thread.for_a_spare)


@pytest.mark.parametrize("blocks", main_thread.BLOCKS)
def test_what_only_the_main_thread_may_do_is_done_in_the_middle_of_a_block(blocks: str) -> None:
    """What blocks the home is released by the very step that needs the home."""
    play(main_thread.in_the_middle_of_a_block, blocks)


def test_a_handler_runs_while_the_home_is_blocked_and_another_step_computes() -> None:
    """That step waits for the handler without a call, and sends the signal to the thread that it runs on."""
    play(handling.other_step_computes)


@pytest.mark.parametrize("sets", main_thread.ALARMS)
@pytest.mark.parametrize("bounded", main_thread.BOUNDED)
def test_who_has_set_an_alarm_gets_what_its_handler_raises(sets: str, bounded: str) -> None:
    """Not whoever the main thread runs: that is blocked in another step."""
    play(main_thread.alarm_is_for_its_step, sets, bounded)


@pytest.mark.parametrize("where", ["home", "spare"])
def test_a_step_waits_for_a_signal(where: str) -> None:
    """Which another task sends."""
    play(main_thread.step_waits_for_a_signal, where)


def test_what_a_handler_raises_ends_the_wait_for_a_signal() -> None:
    play(main_thread.handler_ends_the_wait)


def test_a_thread_that_is_no_lwp_is_refused_as_ever() -> None:
    play(main_thread.thread_that_is_no_lwp)


def test_a_signal_that_comes_while_the_loop_does_not_run_is_handled_in_its_next_run() -> None:
    play(by_the_loop.loop_does_not_run)


def test_the_last_handler_is_removed_and_signals_still_end_the_poll() -> None:
    play(by_the_loop.last_handler_is_removed)
