"""The figures of a loop: what they count, and that they are a snapshot.  (More of them: ``test_modes.py``.)"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import threading
import time
from typing import Any

import pytest
from helpers import LIBC, Recorder, fresh, pipe, running_loop
from steps import Spin

import hybridexec
from hybridexec import Stats, UpcallKind, _core


def test_a_loop_that_has_done_nothing_has_figures_of_nothing() -> None:
    loop = hybridexec.new_event_loop()
    loop.close()
    assert loop.stats() == Stats(
        upcalls=dict.fromkeys(UpcallKind, 0),
        handoffs=0,
        awaits=0,
        claims=0,
        wakeups=0,
        lwps_alive=0,
        lwps_parked=0,
        lwps_blocked=0,
        longest_block=0.0,
        frozen_time=0.0,
        instrument_failures=0,
        instruments_dropped=(),
        core=_core.name,
    )


def test_a_snapshot_does_not_change_and_cannot_be_changed() -> None:
    async def main() -> None:
        before = running_loop().stats()
        copied = dataclasses.asdict(dataclasses.replace(before, upcalls=dict(before.upcalls)))
        time.sleep(0.002)
        assert dataclasses.asdict(dataclasses.replace(before, upcalls=dict(before.upcalls))) == copied
        assert running_loop().stats() != before
        upcalls: Any = before.upcalls
        with pytest.raises(TypeError):
            upcalls[UpcallKind.BLOCKED] = 42
        with pytest.raises(dataclasses.FrozenInstanceError):
            before.claims = 42  # type: ignore[misc]

    hybridexec.run(main())


def read_undeclared(reader: int) -> None:
    LIBC.read(reader, bytes(1), 1)


def test_the_figures_are_those_of_the_upcalls() -> None:
    """Of declared, discovered and explicit blocks, of one that raises, and of preempted steps."""
    recorder = Recorder()
    reads = fresh(read_undeclared)
    spin = Spin()

    async def declared() -> None:
        with pipe() as (reader, writer):
            asyncio.get_running_loop().call_soon(os.write, writer, b"x")
            os.read(reader, 1)

    async def discovered() -> None:
        with pipe() as (reader, writer):
            asyncio.get_running_loop().call_soon(os.write, writer, b"x")
            reads(reader)

    async def explicit() -> None:
        with hybridexec.blocking():
            LIBC.usleep(2000)

    async def fails() -> None:
        lock = threading.Lock()
        lock.acquire()
        with pytest.raises(OverflowError):
            lock.acquire(timeout=1e300)  # refused in the middle of the call

    async def main() -> hybridexec.HybridLoop:
        await asyncio.gather(declared(), discovered(), explicit(), fails(), spin.spins(), spin.ends())
        return running_loop()

    stats = hybridexec.run(main(), preempt=0.02, instruments=[recorder]).stats()
    assert stats.upcalls == {kind: len(recorder.of(kind)) for kind in UpcallKind}
    durations = [upcall.duration for upcall in recorder.of(UpcallKind.UNBLOCKED) if upcall.duration is not None]
    assert len(durations) == stats.upcalls[UpcallKind.BLOCKED]
    assert stats.longest_block == max(durations)
    assert stats.frozen_time == pytest.approx(sum(durations))
    assert stats.upcalls[UpcallKind.PREEMPTED] >= 1
    assert stats.handoffs >= 3 + stats.upcalls[UpcallKind.PREEMPTED]
    assert stats.claims > stats.handoffs  # the first is the home's, and each handoff is followed by another
    assert stats.upcalls[UpcallKind.LWP_STARTED] == stats.upcalls[UpcallKind.LWP_RETIRED] >= 1
    assert (stats.lwps_alive, stats.lwps_parked, stats.lwps_blocked) == (0, 0, 0)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_blocked_lwps_are_counted_while_they_are_blocked(count: int) -> None:
    async def main() -> None:
        loop = running_loop()
        with pipe() as (reader, writer):

            async def blocks() -> None:
                os.read(reader, 1)

            tasks = [asyncio.create_task(blocks()) for _ in range(count)]
            await asyncio.sleep(0)
            stats = loop.stats()
            os.write(writer, b"x" * count)
            assert stats.lwps_blocked == stats.handoffs == stats.upcalls[UpcallKind.BLOCKED] == count
            assert stats.upcalls[UpcallKind.UNBLOCKED] == 0
            assert stats.longest_block == stats.frozen_time == 0.0
            assert stats.lwps_alive > count
            await asyncio.gather(*tasks)
            stats = loop.stats()
            assert stats.lwps_blocked == 0
            assert stats.upcalls[UpcallKind.UNBLOCKED] == count
            assert stats.frozen_time >= stats.longest_block > 0.0

    hybridexec.run(main(), threshold=60)  # what the mood of the machine makes slow is no block


@pytest.mark.parametrize("mode", ["handoff", "observe"])
def test_the_time_that_a_default_loop_would_have_stood_still(mode: Any) -> None:
    """It does not depend on whether the loop has moved, nor does a call inside of a region count twice."""

    async def main() -> Stats:
        before = time.monotonic()
        time.sleep(0.02)
        with hybridexec.blocking():
            time.sleep(0.02)
        with hybridexec.blocking(), hybridexec.blocking():
            LIBC.usleep(20_000)
        stats = running_loop().stats()
        assert 0.06 <= stats.frozen_time <= time.monotonic() - before
        return stats

    stats = hybridexec.run(main(), mode=mode, threshold=60)
    assert stats.upcalls[UpcallKind.BLOCKED] == stats.upcalls[UpcallKind.UNBLOCKED] == 3
    assert stats.handoffs == (3 if mode == "handoff" else 0)


def test_what_a_pinned_step_does_is_counted_as_well() -> None:
    async def main() -> Stats:
        with hybridexec.pinned():
            time.sleep(0.002)
            with hybridexec.blocking():
                time.sleep(0.002)
        return running_loop().stats()

    stats = hybridexec.run(main(), threshold=60)
    assert stats.handoffs == 0
    assert stats.upcalls[UpcallKind.BLOCKED] == stats.upcalls[UpcallKind.UNBLOCKED] == 2
    assert 0.002 <= stats.longest_block < stats.frozen_time
