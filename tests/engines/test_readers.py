"""Readers and writers that block: each is in flight until it is back, and polls rest meanwhile.

(rules 3 and 7)  A callback that blocks does what any step does; here it is about what becomes of its descriptor: it
goes on being ready, is removed, given to another callback, closed, or its number is reused, before the callback is
back.  What becomes of a transport is in ``test_transports.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from helpers import ROOT, environment, holds, pipe, running_loop
from steps import Block, declared, discovered, explicit

import hybridexec
from hybridexec import HybridLoop
from hybridexec.engines.handles import FdState

pytestmark = pytest.mark.differs_by_engine

BLOCKS = [declared, discovered, explicit]

SURE = 60
"""A threshold with which only calls that are sure to block move the loop: no write of a test's, on a busy machine."""


def registered(loop: Any, fd: int) -> Any:
    """The registration of a reader, or of a writer."""
    return loop._readers.get(fd) or loop._writers.get(fd)


async def until(true: Callable[[], object]) -> None:
    """Let the loop go on until something is so; if it never is, the test's time is up."""
    while not true():
        await asyncio.sleep(0.001)


async def rests(loop: HybridLoop) -> None:
    """Polls do not return all the time: twenty timers need some twenty of them, or few more."""
    polls = 0
    wait: Any = loop._poll.wait

    def counted(timeout: float | None) -> Any:
        nonlocal polls
        polls += 1
        return wait(timeout)

    loop._poll.wait = counted  # type: ignore[method-assign]
    try:
        for _ in range(20):
            await asyncio.sleep(0.002)
    finally:
        del loop._poll.wait
    assert polls < 200


class Callback:
    """A reader or a writer, whose calls block until they are released.

    Attributes:
        order: what happened, in order: "begins" and "ends" of each call.
    """

    def __init__(self, loop: HybridLoop, then: Callable[[], object] = lambda: None, block: Block = declared) -> None:
        self.loop = loop
        self.then = then
        self.block = block
        self.order: list[str] = []
        self.blocks, self.ends = os.pipe()

    def __call__(self) -> None:
        self.order.append("begins")
        self.block(self.blocks)
        assert holds(self.loop)
        self.order.append("ends")
        self.then()

    @property
    def calls(self) -> int:
        """How many have begun."""
        return self.order.count("begins")

    @property
    def away(self) -> bool:
        """Whether one is blocked."""
        return bool(self.order) and self.order[-1] == "begins"

    def release(self) -> None:
        """End one block."""
        os.write(self.ends, b"x")

    def __enter__(self) -> Callback:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()  # if the test has failed
        os.close(self.blocks)
        os.close(self.ends)


async def taken_out(loop: HybridLoop, callback: Callback, fd: int) -> Any:
    """Wait until a callback is away, and a poll has found its descriptor ready all the same; its registration."""
    handle = registered(loop, fd)
    await until(lambda: callback.away and handle.state is FdState.TAKEN_OUT)
    return handle


@contextlib.asynccontextmanager
async def blocked(then: Callable[[], object] = lambda: None) -> AsyncIterator[tuple[HybridLoop, Callback, int, int]]:
    """A reader that is away, on a pipe that can be read from: the loop, the reader, and both ends of the pipe."""
    loop = running_loop()
    with pipe() as (reader, writer), Callback(loop, then) as callback:
        loop.add_reader(reader, callback)
        os.write(writer, b"x")
        await taken_out(loop, callback, reader)
        yield loop, callback, reader, writer
        loop.remove_reader(reader)
        await until(lambda: not callback.away)


# ---------------------------------------------------------------- in flight


@pytest.mark.parametrize("block", BLOCKS)
def test_a_reader_that_blocks_is_not_called_again_until_it_is_back(block: Block) -> None:
    async def main() -> None:
        loop = running_loop()
        got = []
        with pipe() as (reader, writer), Callback(loop, lambda: got.append(os.read(reader, 1)), block) as callback:
            loop.add_reader(reader, callback)
            os.write(writer, b"abc")
            for expected in ([b"a"], [b"a", b"b"], [b"a", b"b", b"c"]):
                await taken_out(loop, callback, reader)
                await rests(loop)
                assert callback.calls == len(expected)
                callback.release()
                await until(lambda: got == expected)  # noqa: B023
            await asyncio.sleep(0.002)
            assert callback.order == ["begins", "ends"] * 3
            assert loop.remove_reader(reader)

    hybridexec.run(main())


def test_a_writer_that_blocks_is_not_called_again_until_it_is_back() -> None:
    async def main() -> None:
        loop = running_loop()
        with pipe() as (reader, writer), Callback(loop, lambda: os.write(writer, b"x")) as callback:
            loop.add_writer(writer, callback)
            for calls in (1, 2, 3):
                await taken_out(loop, callback, writer)
                await rests(loop)
                assert callback.calls == calls
                callback.release()
            await until(lambda: callback.calls == 4)
            assert os.read(reader, 9) == b"xxx"
            assert loop.remove_writer(writer)
            callback.release()
            await until(lambda: not callback.away)

    hybridexec.run(main(), threshold=SURE)


def test_another_descriptor_s_callback_ends_the_block() -> None:
    async def main() -> None:
        async with blocked() as (loop, callback, _, _):
            with pipe() as (reader, writer):

                def other() -> None:
                    os.read(reader, 1)
                    callback.release()

                loop.add_reader(reader, other)
                os.write(writer, b"x")
                await until(lambda: callback.calls == 2)
                os.write(writer, b"x")
                await until(lambda: callback.calls == 3)
                loop.remove_reader(reader)
            callback.release()

    hybridexec.run(main(), threshold=SURE)


def test_both_directions_of_one_descriptor_block_for_themselves() -> None:
    async def main() -> None:
        loop = running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs, Callback(loop) as reads, Callback(loop) as writes:
            ours.setblocking(False)
            reads.then = lambda: ours.recv(1)
            loop.add_reader(ours, reads)
            loop.add_writer(ours, writes)
            theirs.send(b"x")
            await until(lambda: reads.away and writes.away)
            await rests(loop)
            theirs.close()  # the kernel tells of that whatever it is asked for
            await rests(loop)
            assert (reads.calls, writes.calls) == (1, 1)
            reads.release()
            await until(lambda: reads.calls == 2)
            assert writes.calls == 1
            assert loop.remove_writer(ours)
            assert loop.remove_reader(ours)
            reads.release()
            writes.release()
            await until(lambda: not reads.away and not writes.away)

    hybridexec.run(main(), threshold=SURE)


def test_an_exception_behind_the_block_leaves_the_reader_registered() -> None:
    told: list[Any] = []

    def fails() -> None:
        raise LookupError

    async def main() -> None:
        running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        async with blocked(fails) as (loop, callback, reader, _):
            callback.release()
            await until(lambda: callback.calls == 2)
            assert loop.remove_reader(reader)
            callback.release()
            await until(lambda: len(told) == 2)

    hybridexec.run(main(), threshold=SURE)
    assert all(isinstance(exc, LookupError) for exc in told)


# ---------------------------------------------------------------- what happens to the descriptor meanwhile


def test_a_reader_that_was_removed_does_not_come_back() -> None:
    async def main() -> None:
        async with blocked() as (loop, callback, reader, _):
            assert loop.remove_reader(reader)
            assert not loop.remove_reader(reader)
            callback.release()
            await until(lambda: not callback.away)
            await rests(loop)
            assert callback.calls == 1

    hybridexec.run(main(), threshold=SURE)


def test_a_reader_that_removes_itself_before_it_blocks_is_gone() -> None:
    async def main() -> None:
        loop = running_loop()
        with pipe() as (reader, writer), pipe() as (blocks, ends):
            calls = 0

            def reads() -> None:
                nonlocal calls
                calls += 1
                loop.remove_reader(reader)
                os.read(blocks, 1)

            loop.add_reader(reader, reads)
            os.write(writer, b"x")
            await until(lambda: calls)
            await rests(loop)
            os.write(ends, b"x")
            await rests(loop)
            assert calls == 1

    hybridexec.run(main(), threshold=SURE)


def test_a_reader_that_took_the_place_of_one_that_is_away_is_called_meanwhile() -> None:
    async def main() -> None:
        async with blocked() as (loop, callback, reader, writer):
            got = []

            def second() -> None:
                got.append(os.read(reader, 1))
                callback.release()

            loop.add_reader(reader, second)
            await until(lambda: not callback.away)
            os.write(writer, b"y")
            await until(lambda: got == [b"x", b"y"])
            assert callback.calls == 1
            assert loop.remove_reader(reader)
            assert not loop.remove_reader(reader)

    hybridexec.run(main(), threshold=SURE)


def test_a_number_that_is_reused_meanwhile_belongs_to_who_has_it_now() -> None:
    async def main() -> None:
        async with blocked() as (loop, callback, reader, _):
            loop.remove_reader(reader)
            with pipe() as (other, writer):
                os.dup2(other, reader)
                got: list[bytes] = []
                loop.add_reader(reader, lambda: got.append(os.read(reader, 1)))
                callback.release()
                await until(lambda: not callback.away)
                os.write(writer, b"y")
                await until(lambda: got == [b"y"])
                assert callback.calls == 1
                assert loop.remove_reader(reader)

    hybridexec.run(main(), threshold=SURE)


def test_a_number_that_is_reused_by_who_asks_for_nothing_is_not_watched() -> None:
    async def main() -> None:
        async with blocked() as (loop, callback, reader, _):
            loop.remove_reader(reader)
            with pipe() as (other, writer):
                os.dup2(other, reader)
                callback.release()
                await until(lambda: not callback.away)
                os.write(writer, b"y")
                await rests(loop)
                assert callback.calls == 1

    hybridexec.run(main(), threshold=SURE)


@pytest.mark.skipif(
    selectors.DefaultSelector.__name__ in ("PollSelector", "SelectSelector"), reason="these tell of it for ever"
)
def test_a_descriptor_that_is_closed_without_being_removed_is_quiet() -> None:
    async def main() -> None:
        loop = running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs, Callback(loop) as callback:
            loop.add_reader(ours.fileno(), callback)
            theirs.send(b"x")
            number = ours.fileno()
            await taken_out(loop, callback, number)
            ours.close()
            callback.release()
            await until(lambda: not callback.away)
            await rests(loop)
            assert callback.calls == 1
            loop.remove_reader(number)

    hybridexec.run(main(), threshold=SURE)


@pytest.mark.engine("selector", reason="uvloop closes it when it is removed")
def test_a_socket_object_that_is_closed_can_be_removed() -> None:
    async def main() -> None:
        loop = running_loop()
        ours, theirs = socket.socketpair()
        with theirs:
            loop.add_reader(ours, lambda: None)
            ours.close()
            assert loop.remove_reader(ours)
            with pytest.raises(ValueError, match="file descriptor"):
                loop.remove_reader(ours)

    hybridexec.run(main(), threshold=SURE)


@pytest.mark.parametrize("raises", [None, KeyboardInterrupt, SystemExit])
def test_the_loop_stops_and_goes_on_while_a_reader_is_away(raises: type[BaseException] | None) -> None:
    loop = hybridexec.new_event_loop()
    with pipe() as (reader, writer), Callback(loop) as home, Callback(loop) as callback:

        def then() -> None:
            os.read(reader, 1)
            if callback.calls == 2:
                loop.stop()
            elif raises is not None:
                raise raises

        async def stops() -> None:
            loop.add_reader(reader, callback)
            os.write(writer, b"xx")
            await taken_out(loop, callback, reader)
            home.release()
            loop.stop()

        callback.then = then
        loop.call_soon(home)
        task = loop.create_task(stops())
        loop.run_forever()
        assert task.done()
        assert not home.away
        assert callback.away
        callback.release()
        callback.release()
        with contextlib.nullcontext() if raises is None else pytest.raises(raises):
            loop.run_forever()
        if callback.order.count("ends") == 1:
            loop.run_forever()
        assert callback.order == ["begins", "ends"] * 2
        assert loop.remove_reader(reader)
    loop.close()


@pytest.mark.slow
@pytest.mark.engine("selector", reason="libuv has a poll of its own")
@pytest.mark.parametrize("name", ["PollSelector", "SelectSelector"])
def test_with_other_selectors_too(name: str) -> None:
    if selectors.DefaultSelector.__name__ != "EpollSelector":
        pytest.skip("this is one of them")
    program = f"""if True:
        import selectors, sys, pytest
        selectors.DefaultSelector = selectors.{name}
        sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "tests/engines/test_readers.py"]))
    """
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
