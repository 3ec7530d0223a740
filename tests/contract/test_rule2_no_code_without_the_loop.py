"""Rule 2: no code runs without the loop.

That the loop has moved is proved by causality: a step blocks on what only another task of the same loop can release.
"""

from __future__ import annotations

import asyncio
import functools
import os
import select
import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest
from helpers import (
    LIBC,
    Witness,
    fill,
    fresh,
    holds,
    pipe,
    play_strictly,
    quick_switches,
    running_loop,
)
from steps import spin_until

import hybridexec
from hybridexec import Detection, UpcallKind

pytestmark = [pytest.mark.differs_by_engine, pytest.mark.differs_by_version]


def test_rule2_declared_sure() -> None:
    with pipe() as (reader, writer):

        def body(witness: Witness) -> None:
            os.read(reader, 1)
            witness.returned = True

        recorder = play_strictly(body, lambda: os.write(writer, b"x"))
        assert recorder.detections() == [Detection.DECLARED]


def test_rule2_declared_sure_that_raises() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.02)

        def body(witness: Witness) -> None:
            try:
                ours.recv(1)
            except TimeoutError:
                witness.returned = True

        recorder = play_strictly(body)
        assert recorder.detections() == [Detection.DECLARED]


def test_rule2_declared_marked() -> None:
    with pipe() as (reader, writer):

        def body(witness: Witness) -> None:
            select.select([reader], [], [])
            witness.returned = True

        recorder = play_strictly(body, lambda: os.write(writer, b"x"))
        assert recorder.detections() == [Detection.DECLARED]


def test_rule2_declared_marked_that_raises() -> None:
    with pipe() as (reader, writer):
        fill(writer)

        def body(witness: Witness) -> None:
            try:
                os.write(writer, b"x")
            except BrokenPipeError:
                witness.returned = True

        recorder = play_strictly(body, lambda: os.close(reader))
        assert recorder.detections() == [Detection.DECLARED]


def test_rule2_declared_in_the_middle_of_an_expression() -> None:
    with pipe() as (reader, writer):

        def body(witness: Witness) -> None:
            witness.returned = bool(os.read(reader, 1))

        play_strictly(body, lambda: os.write(writer, b"x"))


def test_rule2_discovered_sleep_through_ctypes() -> None:
    def body(witness: Witness) -> None:
        LIBC.usleep(150_000)
        witness.returned = True

    # The one who keeps the loop has to be still at it when the call returns.
    deadline = monotonic() + 0.2
    recorder = play_strictly(body, lambda: spin_until(lambda: monotonic() > deadline))
    assert recorder.detections() == [Detection.DISCOVERED]


def test_rule2_discovered_pipe_read_that_nobody_declared() -> None:
    with pipe() as (reader, writer):

        def body(witness: Witness) -> None:
            LIBC.read(reader, bytes(1), 1)
            witness.returned = True

        recorder = play_strictly(body, lambda: os.write(writer, b"x"))
        assert recorder.detections() == [Detection.DISCOVERED]


def test_rule2_discovered_with_statement_of_a_lock() -> None:
    lock = threading.Lock()
    lock.acquire()

    def body(witness: Witness) -> None:
        with lock:
            witness.returned = True

    recorder = play_strictly(body, lock.release)
    assert recorder.detections() in ([Detection.DISCOVERED], [Detection.DECLARED])  # since 3.14 it is an event


def test_rule2_discovered_iteration_over_a_file() -> None:
    with pipe() as (reader, writer), open(reader, closefd=False) as lines:

        def body(witness: Witness) -> None:
            for _ in lines:
                witness.returned = True
                break

        recorder = play_strictly(body, lambda: os.write(writer, b"a line\n"))
        assert recorder.detections() == [Detection.DISCOVERED]


def test_rule2_discovered_call_that_raises_into_its_own_frame() -> None:
    with pipe() as (reader, writer), open(writer, "wb", buffering=0, closefd=False) as file:
        fill(writer)

        def body(witness: Witness) -> None:
            try:
                file.write(b"x")
            except BrokenPipeError:
                witness.returned = True

        recorder = play_strictly(body, lambda: os.close(reader))
        assert recorder.detections() == [Detection.DISCOVERED]


def test_rule2_discovered_call_that_raises_into_its_caller() -> None:
    with pipe() as (reader, writer), open(writer, "wb", buffering=0, closefd=False) as file:
        fill(writer)

        def inner() -> None:
            file.write(b"x")

        def body(witness: Witness, inner: Callable[[], None] = fresh(inner)) -> None:  # noqa: B008
            try:
                inner()
            except BrokenPipeError:
                witness.returned = True

        recorder = play_strictly(body, lambda: os.close(reader))
        assert recorder.detections() == [Detection.DISCOVERED]


def test_rule2_discovered_last_call_of_a_function() -> None:
    """Nothing of the innermost frame is left but its return: what runs next is its caller."""
    with pipe() as (reader, writer):
        read: Callable[[], int] = lambda: LIBC.read(reader, bytes(1), 1)  # noqa: E731

        def body(witness: Witness, read: Callable[[], int] = fresh(read)) -> None:  # noqa: B008
            witness.returned = read() == 1

        recorder = play_strictly(body, lambda: os.write(writer, b"x"))
        assert recorder.detections() == [Detection.DISCOVERED]


def test_rule2_discovered_c_call_that_calls_back_into_python() -> None:
    """C code blocks, and calls a Python function before it returns."""
    import sqlite3

    connection = sqlite3.connect(":memory:")
    held: list[bool] = []
    loop: asyncio.AbstractEventLoop | None = None
    count = 400_000
    query = "with recursive c(x) as (select 1 union all select x + 1 from c where x < ?) select f(count(*)) from c"

    def called_back(value: int) -> int:
        assert loop is not None
        held.append(holds(loop))
        return value

    async def blocks() -> Any:
        return connection.execute(query, (count,)).fetchone()

    async def keeps_the_loop_busy(done: list[bool]) -> None:
        while not done:
            with hybridexec.pinned():
                before = len(held)
                until = monotonic() + 0.005
                while monotonic() < until:
                    assert len(held) == before
            await asyncio.sleep(0)

    async def main() -> None:
        nonlocal loop
        loop = asyncio.get_running_loop()
        connection.create_function("f", 1, called_back)
        done: list[bool] = []
        busy = asyncio.create_task(keeps_the_loop_busy(done))
        await asyncio.sleep(0)
        assert await asyncio.create_task(fresh(blocks)()) == (count,)
        done.append(True)
        await busy

    with quick_switches():
        hybridexec.run(main(), threshold=0.001)
    assert held == [True]
    connection.close()


def test_rule2_discovered_learned_the_second_time() -> None:
    """A call site that the sampler has found is declared from then on, and as strict."""
    with pipe() as (reader, writer):

        def read() -> int:
            return LIBC.read(reader, bytes(1), 1)

        def body(witness: Witness, read: Callable[[], int] = fresh(read)) -> None:  # noqa: B008
            read()
            witness.returned = True

        first = play_strictly(body, lambda: os.write(writer, b"x"))
        second = play_strictly(body, lambda: os.write(writer, b"x"))
        assert first.detections() == [Detection.DISCOVERED]
        assert second.detections() == [Detection.DECLARED]


def test_rule2_discovered_site_that_was_learned_and_then_calls_python() -> None:
    """The place is known to block, but what is called there now is another thing: Python code, by way of C."""
    with pipe() as (reader, writer):

        def calls(what: Callable[[], object]) -> object:
            return what()

        site = fresh(calls)
        block = functools.partial(os.read, reader, 1)
        held: list[bool] = []

        def python() -> None:
            held.append(holds(asyncio.get_running_loop()))
            for _ in range(1000):
                held.append(holds(asyncio.get_running_loop()))

        async def main() -> None:
            asyncio.get_running_loop().call_soon(os.write, writer, b"x")
            site(block)
            spinner = asyncio.create_task(spins())
            await asyncio.sleep(0)
            site(functools.partial(python))
            await spinner

        async def spins() -> None:
            for _ in range(20):
                await asyncio.sleep(0)

        with quick_switches():
            hybridexec.run(main())
        assert held == [True] * 1001


def test_rule2_explicit() -> None:
    with pipe() as (reader, writer):

        def body(witness: Witness) -> None:
            with hybridexec.blocking():
                os.read(reader, 1)
            witness.returned = True

        recorder = play_strictly(body, lambda: os.write(writer, b"x"))
        assert recorder.detections() == [Detection.EXPLICIT]


def test_rule2_many_tasks_in_the_same_code() -> None:
    """The trap of one code object stays until its last step has come back."""
    with pipe() as (reader, writer):
        inside = 0
        finished = 0

        async def blocks() -> None:
            nonlocal inside, finished
            LIBC.read(reader, bytes(1), 1)
            inside += 1
            until = monotonic() + 0.002
            while monotonic() < until:
                assert inside == 1
            inside -= 1
            finished += 1

        async def releases() -> None:
            with hybridexec.pinned():
                os.write(writer, b"x" * 12)

        async def main() -> None:
            tasks = [asyncio.create_task(blocks()) for _ in range(12)]
            await asyncio.gather(*tasks, asyncio.create_task(releases()))

        with quick_switches():
            hybridexec.run(main())
        assert finished == 12


def test_rule2_preempted() -> None:
    counter = 0
    done = False
    checks = 0

    async def computes() -> None:
        nonlocal counter
        while not done:
            counter += 1

    async def keeps_the_loop() -> None:
        nonlocal done, checks
        for _ in range(4):
            with hybridexec.pinned():
                before = counter
                until = monotonic() + 0.02
                while monotonic() < until:
                    assert counter == before
                checks += 1
            await asyncio.sleep(0)
        done = True

    async def main() -> int:
        await asyncio.gather(computes(), keeps_the_loop())
        return running_loop().stats().upcalls[UpcallKind.PREEMPTED]

    with quick_switches():
        assert hybridexec.run(main(), preempt=0.01) > 0
    assert checks == 4
    assert counter > 0


def test_rule2_preempted_steps_never_run_at_once() -> None:
    """What one bytecode instruction may tear apart, preemption may; what is pinned, it may not."""
    total = 0
    rounds = 3000

    async def adds() -> None:
        nonlocal total
        for _ in range(rounds):
            with hybridexec.pinned():
                value = total
                value += 1
                total = value

    async def main() -> None:
        await asyncio.gather(*(adds() for _ in range(4)))

    with quick_switches():
        hybridexec.run(main(), preempt=0.005)
    assert total == 4 * rounds
