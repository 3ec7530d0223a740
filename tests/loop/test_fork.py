"""Forks: what a child process finds of its parent's loop, and that the parent goes on."""

from __future__ import annotations

import _thread
import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import pytest
from helpers import LIBC, environment, lwps, pipe, running_loop, start

import hybridexec
from hybridexec import current_lwp

PACKAGE = Path(hybridexec.__file__).parent


def in_child(body: Callable[[], int]) -> int:
    """Fork.  The child runs the body and exits with its status, and never lives for more than some seconds.

    Returns:
        The child's process id; only in the parent.
    """
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        status = body()
    finally:
        os._exit(status)


def status_of(child: int) -> int:
    """Wait for a child, which is a blocking call; its exit status."""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


async def answer() -> int:
    """What a child's own loop runs: it moves, as any."""
    with pipe() as (reader, writer):
        asyncio.get_running_loop().call_soon(os.write, writer, b"x")
        os.read(reader, 1)
    await asyncio.sleep(0)
    return 42


def runs_a_loop() -> int:
    """The body of a child that uses a new loop."""
    return hybridexec.run(answer())


async def on_a_spare(step: Callable[[], int]) -> int:
    """Run something in a step on a spare, while the home is blocked if this step is at home."""
    if _thread.get_ident() != threading.main_thread().ident:
        return step()
    with pipe() as (reader, writer):
        found: list[int] = []

        async def elsewhere() -> None:
            assert _thread.get_ident() != threading.main_thread().ident
            found.append(step())
            os.write(writer, b"x")

        task = asyncio.create_task(elsewhere())
        os.read(reader, 1)
        await task
        return found[0]


async def at_home(step: Callable[[], int]) -> int:
    """Run something in a step at home."""
    assert _thread.get_ident() == threading.main_thread().ident
    return step()


async def among_blocked(step: Callable[[], int]) -> int:
    """Run something in a step while some LWPs are blocked: declared, discovered, in a region."""
    with pipe() as (reader, writer):

        async def declared() -> None:
            os.read(reader, 1)

        async def discovered() -> None:
            LIBC.read(reader, b" ", 1)

        async def region() -> None:
            with hybridexec.blocking():
                os.read(reader, 1)

        tasks = [asyncio.create_task(block()) for block in (declared, discovered, region)]
        while running_loop().stats().lwps_blocked < len(tasks):
            await asyncio.sleep(0.001)
        try:
            return step()
        finally:
            os.write(writer, b"xxx")
            await asyncio.gather(*tasks)


PLACES = pytest.mark.parametrize("place", [at_home, on_a_spare, among_blocked])
type Place = Callable[[Callable[[], int]], Any]


async def goes_on() -> None:
    """The parent's loop is whole: it moves, and all its parts work."""
    assert await answer() == 42
    assert await asyncio.to_thread(lambda: 7) == 7
    assert await on_a_spare(lambda: 8) == 8


@PLACES
def test_a_child_that_exits_at_once_leaves_the_parent_alone(place: Place) -> None:
    async def main() -> None:
        assert await place(lambda: status_of(in_child(lambda: 7))) == 7
        await goes_on()

    hybridexec.run(main())


@PLACES
def test_a_child_runs_a_loop_of_its_own(place: Place) -> None:
    async def main() -> None:
        assert await place(lambda: status_of(in_child(runs_a_loop))) == 42
        await goes_on()

    hybridexec.run(main())


@PLACES
def test_a_child_has_no_lwp(place: Place) -> None:
    def bare() -> int:
        time.sleep(0.001)
        return 0 if current_lwp() is None and not _running() else 1

    async def main() -> None:
        assert await place(lambda: status_of(in_child(bare))) == 0

    hybridexec.run(main())


def _running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


REFUSED = """
    import _thread, asyncio, os, signal, sys, threading, time
    import hybridexec

    def forks():
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            print("child", _thread.get_ident() == threading.main_thread().ident, flush=True)
        return child

    async def parent(child):
        # waitpid blocks: the loop moves, so it is whole
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        print("status", os.waitstatus_to_exitcode(status), flush=True)
"""


def test_a_child_that_goes_on_with_its_step_at_home_is_refused_the_loop() -> None:
    process = start(
        REFUSED
        + """
    async def main():
        child = forks()
        if child == 0:
            await asyncio.sleep(0)
            print("child goes on", flush=True)
        await parent(child)

    try:
        hybridexec.run(main())
    except RuntimeError as exc:
        print("refused:", exc, flush=True)
        sys.exit(5)
    """
    )
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert "refused: this event loop belongs to the parent process" in output
    assert "hybridexec.run()" in output, "the message says what to do"
    assert "status 5" in output
    assert "child goes on" not in output


def test_a_child_that_goes_on_with_its_step_on_a_spare_ends_with_a_message() -> None:
    process = start(
        REFUSED
        + """
    async def main():
        reader, writer = os.pipe()

        async def spare():
            child = forks()
            if child == 0:
                await asyncio.sleep(0)
                print("child goes on", flush=True)
            await parent(child)
            os.write(writer, b"x")

        task = asyncio.create_task(spare())
        os.read(reader, 1)
        await task

    hybridexec.run(main())
    """
    )
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert "this event loop belongs to the parent process" in output
    assert "status 1" in output
    assert "child goes on" not in output


def test_a_child_that_blocks_in_the_step_it_was_forked_in_is_not_hung() -> None:
    """Its blocking calls are nobody's business there: it has no loop that could move."""

    def blocks() -> int:
        with pipe() as (reader, writer):
            thread = threading.Timer(0.01, os.write, (writer, b"x"))
            thread.start()
            os.read(reader, 1)
            thread.join()
        return 6

    async def main() -> None:
        assert await at_home(lambda: status_of(in_child(blocks))) == 6
        assert await on_a_spare(lambda: status_of(in_child(blocks))) == 6

    hybridexec.run(main())


def test_what_a_handler_raises_in_the_child_comes_up_wherever_it_is() -> None:
    """In the parent it would be put off till the protocol is through with what it does; here nobody would raise it."""

    def body() -> int:
        def strikes(frame: types.FrameType, event: str, arg: object) -> None:
            if Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
                sys.settrace(None)
                signal.raise_signal(signal.SIGTERM)

        signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(3))
        try:
            sys.settrace(strikes)
            with hybridexec.blocking():
                sys.settrace(None)
            return 1
        except SystemExit:
            return 0

    async def main() -> int:
        return status_of(in_child(body))

    assert hybridexec.run(main()) == 0


def test_the_loop_of_the_parent_can_be_closed_in_the_child() -> None:
    """And doing so takes nothing from the parent's selector."""
    loop = hybridexec.new_event_loop()
    with pipe() as (reader, writer):
        os.set_blocking(reader, False)
        got: list[bytes] = []

        def closes() -> int:
            loop.remove_reader(reader)
            loop.close()
            with pytest.raises(RuntimeError, match="closed"):
                loop.run_until_complete(asyncio.sleep(0))
            return 3

        def reads() -> None:
            got.append(os.read(reader, 1))
            loop.stop()

        loop.add_reader(reader, reads)
        loop.run_until_complete(answer())
        assert status_of(in_child(closes)) == 3
        os.write(writer, b"y")
        loop.run_forever()
        assert got == [b"y"]
    loop.close()


def test_a_loop_that_is_not_running_is_refused_in_the_child() -> None:
    loop = hybridexec.new_event_loop()
    assert loop.run_until_complete(answer()) == 42

    def uses_it() -> int:
        coroutine = answer()
        with pytest.raises(RuntimeError, match="belongs to the parent process"):
            loop.run_until_complete(coroutine)
        coroutine.close()
        return 0

    assert status_of(in_child(uses_it)) == 0
    assert loop.run_until_complete(answer()) == 42
    loop.close()


def test_a_fork_in_a_thread_beside_a_running_loop() -> None:
    statuses: list[int] = []

    async def main() -> None:
        def beside() -> None:
            statuses.append(status_of(in_child(runs_a_loop)))

        thread = threading.Thread(target=beside)
        thread.start()
        while thread.is_alive():
            time.sleep(0.001)
            await asyncio.sleep(0)
        thread.join()
        await goes_on()

    hybridexec.run(main())
    assert statuses == [42]


def test_forks_in_many_threads_while_the_loop_moves() -> None:
    """Whatever was under way in the other threads when the child was made, it can run a loop of its own."""
    children: list[int] = []

    async def main() -> None:
        stop = threading.Event()

        async def moves() -> None:
            while not stop.is_set():
                time.sleep(0.0005)
                LIBC.usleep(100)
                await asyncio.sleep(0)

        def forks() -> None:
            for _ in range(4):
                children.append(status_of(in_child(runs_a_loop)))

        tasks = [asyncio.create_task(moves()) for _ in range(4)]
        threads = [threading.Thread(target=forks) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        stop.set()
        await asyncio.gather(*tasks)

    hybridexec.run(main())
    assert children == [42] * 8


def test_children_of_children() -> None:
    async def child() -> int:
        assert await place_of_grandchild() == 42
        return 41

    async def place_of_grandchild() -> int:
        return await on_a_spare(lambda: status_of(in_child(runs_a_loop)))

    async def main() -> None:
        assert await on_a_spare(lambda: status_of(in_child(lambda: hybridexec.run(child())))) == 41
        await goes_on()

    hybridexec.run(main())


# ---------------------------------------------------------------- through libraries


def _work(queue: Queue[Any]) -> None:
    queue.put((os.getpid(), hybridexec.run(answer())))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method: str) -> None:
    context: Any = multiprocessing.get_context(method)

    async def main() -> None:
        queue = context.Queue()
        process = context.Process(target=_work, args=(queue,))
        process.start()
        beat = asyncio.create_task(asyncio.sleep(0))
        pid, result = queue.get()  # blocks until the child answers
        process.join()
        await beat
        assert (pid, result, process.exitcode) == (process.pid, 42, 0)
        queue.close()
        queue.join_thread()
        await goes_on()

    hybridexec.run(main())


@PLACES
def test_subprocesses_of_the_standard_library(place: Place) -> None:
    def runs() -> int:
        command = [sys.executable, "-c", "import sys; print(input()); sys.exit(9)"]
        done = subprocess.run(command, input="hello\n", capture_output=True, text=True, env=environment())
        assert done.stdout == "hello\n"
        return done.returncode

    async def main() -> None:
        assert await place(runs) == 9
        await goes_on()

    hybridexec.run(main())


def test_a_subprocess_is_waited_for_while_the_loop_moves() -> None:
    """The child ends only when another task of the loop lets it."""

    async def main() -> None:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=environment())
        assert process.stdin is not None
        asyncio.get_running_loop().call_soon(process.stdin.close)
        assert process.wait() == 1
        assert lwps()

    hybridexec.run(main())
