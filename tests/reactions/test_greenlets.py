"""Greenlets beside the loop's own: what another thread could not switch to keeps the loop where it is.

What a task switches to is in ``test_affinity_sqlalchemy`` and ``tests/contract``.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import greenlet
import pytest
from helpers import COPIES_STACKS, pipe, play

import hybridexec
from hybridexec import HybridLoop

pytestmark = [pytest.mark.needs_stack, COPIES_STACKS]


class Beside:
    """A loop that runs in a greenlet of its own, and a program in another one, as Playwright's synchronous API has it.

    Args:
        loop: the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.program = greenlet.getcurrent()
        self.stop = loop.create_future()
        self.carrier = greenlet.greenlet(lambda: loop.run_until_complete(self.stop))

    def sync[T](self, future: asyncio.Future[T]) -> T:
        """Have the loop run until something is done; called by the program."""
        future.add_done_callback(lambda _: self.program.switch())
        while not future.done():
            self.carrier.switch()
        return future.result()

    def end(self) -> None:
        self.stop.set_result(None)
        self.carrier.switch()
        assert self.carrier.dead
        self.loop.close()


def block_while_work_comes(loop: asyncio.AbstractEventLoop, work: Callable[[], Any]) -> bool:
    """Block the calling step, while another thread gives the loop something to do.  Whether that was done meanwhile."""
    done = threading.Event()
    meanwhile: list[bool] = []

    def works() -> None:
        done.set()
        work()

    with pipe() as (reader, writer):

        def other() -> None:
            loop.call_soon_threadsafe(works)
            meanwhile.append(done.wait(0.1))
            os.write(writer, b"x")

        thread = threading.Thread(target=other)
        thread.start()
        os.read(reader, 1)
        thread.join()
    return meanwhile[0]


@pytest.mark.parametrize("make", [asyncio.new_event_loop, hybridexec.new_event_loop], ids=["asyncio", "ours"])
def test_a_loop_in_a_greenlet_of_its_own_stays(
    make: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture
) -> None:
    loop = make()
    beside = Beside(loop)
    for number in range(3):
        answers = loop.create_future()
        if number == 0:  # in the program's greenlet the loop is not running yet
            loop.call_soon(answers.set_result, number)
        else:
            assert not block_while_work_comes(loop, functools.partial(answers.set_result, number))
        assert beside.sync(answers) == number
    beside.end()
    said = [record for record in caplog.records if "greenlet" in record.getMessage()]
    assert len(said) == isinstance(loop, HybridLoop)
    assert all(record.levelno == logging.WARNING for record in said)


def test_blocking_says_so_in_such_a_loop_and_stays() -> None:
    loop = hybridexec.new_event_loop()
    beside = Beside(loop)
    first, second = loop.create_future(), loop.create_future()
    loop.call_soon(first.set_result, 1)
    assert beside.sync(first) == 1
    with hybridexec.blocking():
        assert not block_while_work_comes(loop, functools.partial(second.set_result, 2))
    assert beside.sync(second) == 2
    assert loop.stats().handoffs == 0
    beside.end()


def test_a_loop_stays_while_a_callback_s_greenlet_lives() -> None:
    """The program is in a greenlet that callbacks switch to; the loop is in the thread's own."""
    seen: list[bool] = []
    lock = threading.Lock()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        carrier = greenlet.getcurrent()
        over = loop.create_future()

        def program() -> None:
            for _ in range(2):
                seen.append(block_while_work_comes(loop, lambda: None))
                carrier.switch()

        beside = greenlet.greenlet(program)

        def switches() -> None:
            beside.switch()
            if beside.dead:
                over.set_result(None)
            else:
                loop.call_soon(switches)

        loop.call_soon(switches)
        await over
        assert seen == [False, False]

        async def waits() -> None:  # and now it moves
            with lock:
                pass

        lock.acquire()
        await asyncio.gather(waits(), asyncio.to_thread(lock.release))

    hybridexec.run(main())


def released() -> tuple[Callable[[], object], Callable[[], object]]:
    """A call that blocks until another one is made."""
    event = threading.Event()
    return event.wait, event.set


def test_a_step_in_a_greenlet_that_nobody_has_seen_it_switch_to() -> None:
    def block() -> None:
        program = greenlet.greenlet(lambda: threading.Event().wait(0.05))
        functools.partial(program.switch)()  # in C: no event

    assert play(block).stayed


def test_a_step_of_a_bound_task_leaves() -> None:
    block, release = released()
    assert play(lambda: greenlet.greenlet(block).switch(), release).moved


def test_a_step_that_has_come_back_leaves() -> None:
    block, release = released()

    def switches_and_blocks() -> None:
        functools.partial(greenlet.greenlet(lambda: None).switch)()
        block()

    assert play(switches_and_blocks, release).moved
