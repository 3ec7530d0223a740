"""Instruments that raise, and instruments that block: the loop continues, and it is said which one it is."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable

import pytest
from helpers import LIBC, Recorder, fresh, pipe, running_loop
from steps import explicit

import hybridexec
from hybridexec import Instrument, Stats, Upcall, UpcallKind

SECRET = "hunter2"


class Fails(Instrument):
    """Hears of the ends of blocks, and raises.

    Args:
        error: what it raises.
        fails: whether its n-th call does, counted from 1.
    """

    def __init__(self, error: type[BaseException] = LookupError, fails: Callable[[int], bool] = lambda n: True) -> None:
        self.error = error
        self.calls = 0
        self._fails = fails

    def unblocked(self, upcall: Upcall) -> None:
        """Or any other upcall."""
        self.calls += 1
        if self._fails(self.calls):
            raise self.error(SECRET)


class FailsAlways(Fails):
    """Raises at every kind of upcall."""

    blocked = preempted = lwp_started = lwp_retired = exhausted = Fails.unblocked


def blocks_declared(reader: int) -> None:
    os.read(reader, 1)


def blocks_undeclared(reader: int) -> None:
    LIBC.read(reader, bytes(1), 1)


def rounds(count: int, *instruments: Instrument, block: Callable[[int], None] = blocks_declared) -> Stats:
    """A step blocks so often until another has released it; the figures at the end."""
    block = fresh(block)

    async def main() -> Stats:
        for _ in range(count):
            with pipe() as (reader, writer):
                asyncio.get_running_loop().call_soon(os.write, writer, b"x")
                block(reader)
        return running_loop().stats()

    return hybridexec.run(main(), instruments=instruments)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log has said of instruments."""
    records = [record for record in caplog.records if record.name == "hybridexec"]
    assert all(record.levelno == logging.ERROR for record in records)
    assert SECRET not in caplog.text
    return [record.getMessage() for record in records]


@pytest.mark.parametrize("error", [LookupError, asyncio.CancelledError, GeneratorExit, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("block", [blocks_declared, blocks_undeclared, explicit])
@pytest.mark.parametrize("on_main_thread", [True, False])
def test_whatever_an_instrument_raises_the_loop_continues(
    block: Callable[[int], None], error: type[BaseException], on_main_thread: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Be it on the main thread, on a spare, or on the sampler's."""
    instrument, recorder = FailsAlways(error), Recorder()
    ended: list[Stats] = []

    def play() -> None:
        ended.append(rounds(2, instrument, recorder, block=block))

    if on_main_thread:
        play()
    else:
        runs = threading.Thread(target=play)
        runs.start()
        runs.join()
    (stats,) = ended
    assert len(recorder.of(UpcallKind.UNBLOCKED)) == 2
    assert 4 <= stats.instrument_failures <= instrument.calls < 10
    (message,) = said(caplog)
    assert f"test_instruments_that_fail.FailsAlways has raised {error.__name__} in " in message
    assert __file__ in message


def test_an_instrument_that_has_failed_is_called_again(caplog: pytest.LogCaptureFixture) -> None:
    instrument = Fails(OSError, lambda n: n == 2)
    stats = rounds(5, instrument)
    assert instrument.calls == 5
    assert stats.instrument_failures == 1
    assert stats.instruments_dropped == ()
    assert len(said(caplog)) == 1


def test_an_instrument_that_fails_ten_times_in_a_row_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    instrument, recorder = Fails(), Recorder()
    stats = rounds(15, instrument, recorder)
    assert instrument.calls == stats.instrument_failures == 10
    assert stats.instruments_dropped == ("test_instruments_that_fail.Fails",)
    assert len(recorder.of(UpcallKind.UNBLOCKED)) == 15
    first, last = said(caplog)
    assert "called again" in first
    assert "has raised 10 times in a row and is dropped" in last


def test_one_that_fails_often_but_not_in_a_row_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    instrument = Fails(fails=lambda n: n % 10 != 0)
    stats = rounds(31, instrument)
    assert instrument.calls == 31
    assert stats.instrument_failures == 28
    assert stats.instruments_dropped == ()
    assert len(said(caplog)) == 1


def test_the_other_instruments_are_called_all_the_same() -> None:
    before, after = Recorder(), Recorder()
    rounds(12, before, Fails(), after)
    assert len(before.of(UpcallKind.UNBLOCKED)) == len(after.of(UpcallKind.UNBLOCKED)) == 12


# ---------------------------------------------------------------- those that block


class Blocks(Instrument):
    """Waits, once, for what only a task of the loop does."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.waited = False

    def waits(self, upcall: Upcall) -> None:
        """One upcall of the kind that a test gives this to."""
        if not self.waited:
            self.waited = True
            self.released.wait()


class AtBlocked(Blocks):
    blocked = Blocks.waits


class AtUnblocked(Blocks):
    unblocked = Blocks.waits


class AtStart(Blocks):
    lwp_started = Blocks.waits


def play_blocked(instrument: Blocks, block: Callable[[int], None]) -> None:
    """A step blocks, and the instrument with it, until a task releases the instrument."""
    block = fresh(block)

    async def releases() -> None:
        while not instrument.waited:
            await asyncio.sleep(0.001)
        instrument.released.set()

    async def main() -> None:
        with pipe() as (reader, writer):
            task = asyncio.create_task(releases())
            asyncio.get_running_loop().call_soon(os.write, writer, b"x")
            block(reader)
            await task

    hybridexec.run(main(), instruments=[instrument])
    assert instrument.waited


@pytest.mark.parametrize("kind", [AtBlocked, AtUnblocked, AtStart])
@pytest.mark.parametrize("block", [blocks_declared, explicit])
def test_an_instrument_that_blocks_blocks_one_step_and_not_the_loop(
    kind: type[Blocks], block: Callable[[int], None]
) -> None:
    play_blocked(kind(), block)


def test_an_instrument_of_a_discovered_block_that_is_over_does_not_hold_the_loop() -> None:
    play_blocked(AtUnblocked(), blocks_undeclared)
