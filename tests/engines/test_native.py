"""The compiled core's own parts, held against what they stand in for; and what the native engine queues is sent."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import functools
import gc
import itertools
import os
import random
import select
import signal
import socket
import sys
import threading
import time
import weakref
from typing import Any

import pytest
from helpers import start

import hybridexec
from hybridexec import _core

pytestmark = [
    pytest.mark.differs_by_version,
    pytest.mark.skipif(_core.compiled is None, reason="there is no compiled core"),
]

compiled: Any = _core.compiled


@pytest.fixture
def loop() -> Any:
    loop = hybridexec.new_event_loop(engine="native")
    yield loop
    loop.close()


# ---------------------------------------------------------------- the queue and the heap


def test_the_ring_is_a_deque() -> None:
    """Whatever is done to both leaves the same in both."""
    chance = random.Random(1)
    ring, deque = compiled.Ring(), collections.deque[int]()
    for number in range(20_000):
        does = chance.choice(["append", "append", "appendleft", "popleft", "pop"])
        if does.startswith("append"):
            getattr(ring, does)(number)
            getattr(deque, does)(number)
        elif deque:
            assert getattr(ring, does)() == getattr(deque, does)()
        else:
            with pytest.raises(IndexError):
                getattr(ring, does)()
        assert len(ring) == len(deque)
        assert bool(ring) is bool(deque)
    assert list(ring) == list(deque)
    assert ring[0] == deque[0]
    with pytest.raises(IndexError):
        ring[len(ring)]
    ring.clear()
    assert not ring


def test_the_ring_is_seen_by_the_collector() -> None:
    ring = compiled.Ring()

    class Node:
        pass

    node = Node()
    gone = weakref.ref(node)
    node.ring = ring  # type: ignore[attr-defined]
    ring.append(node)
    assert repr(ring).startswith("Ring([<")
    del ring, node
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("when", [10**7, 1e7])
@pytest.mark.parametrize("debug", [False, True])
def test_a_timer_s_time_is_what_it_was_given(when: float, debug: bool, loop: Any) -> None:
    """aiohttp's suite tells an int from a float."""
    loop.set_debug(debug)
    timer = loop.call_at(when, print)
    assert type(timer.when()) is type(timer._when) is type(when)
    assert timer.when() == timer._when == when
    timer.cancel()
    assert timer.when() == when


def test_timers_come_in_the_order_of_their_times(loop: Any) -> None:
    """Also where others of them have been cancelled."""
    chance = random.Random(2)
    context = None
    timers = compiled.Timers()
    made = []
    for _ in range(2000):
        timer = compiled.TimerHandle(chance.random(), print, (), loop, context)
        timers.push(timer)
        made.append(timer)
        if chance.random() < 0.5:
            made.pop(chance.randrange(len(made))).cancel()
    assert len(timers) == len(made)
    assert timers[0].when() == min(timer.when() for timer in made)
    ring = compiled.Ring()
    timers.move_due(0.5, ring)
    assert [timer.when() for timer in ring] == sorted(timer.when() for timer in made if timer.when() < 0.5)
    assert not any(timer._scheduled for timer in ring)
    timers.move_due(2, ring)
    assert not timers
    assert [timer.when() for timer in ring] == sorted(timer.when() for timer in made)


@pytest.mark.parametrize("wrong", [None, "x", 1])
def test_only_a_timer_can_be_pushed(wrong: Any, loop: Any) -> None:
    timers = compiled.Timers()
    with pytest.raises(TypeError, match=f"not {type(wrong).__name__}"):
        timers.push(wrong)
    timer = compiled.TimerHandle(1.0, print, (), loop, None)
    timers.push(timer)
    with pytest.raises(TypeError, match="in no heap"):
        timers.push(timer)


# ---------------------------------------------------------------- handles


def test_handles_are_asyncios(loop: Any) -> None:
    step: Any = loop.call_soon(print, 1)
    timer: Any = loop.call_later(5, print, 2)
    assert issubclass(type(step), asyncio.Handle)
    assert issubclass(type(timer), asyncio.TimerHandle)
    assert (step._callback, step._args, step.cancelled()) == (print, (1,), False)
    assert timer.when() == timer._when
    assert timer == timer
    assert hash(timer) == hash(timer.when())
    for handle in (step, timer):
        handle.cancel()
        assert handle.cancelled()
        assert (handle._callback, handle._args) == (None, None)
        assert "cancelled" in repr(handle)
    assert not loop._scheduled


def test_a_cancelled_timer_drops_what_it_has_kept(loop: Any) -> None:
    class Kept:
        pass

    kept = Kept()
    gone = weakref.ref(kept)
    timer = loop.call_later(3600, print, kept)
    del kept
    assert gone() is not None
    timer.cancel()
    assert gone() is None


@pytest.mark.parametrize("make", ["call_soon", "call_later", "call_at", "call_soon_threadsafe"])
def test_wrong_arguments_are_refused_as_by_asyncio(make: str, loop: Any) -> None:
    theirs = asyncio.SelectorEventLoop()
    for args, kwargs in (
        ((), {}),
        ((None,), {}),
        ((None, print), {}),
        (("x", print), {}),
        ((1, print), {"contxt": None}),
    ):
        expected: type[BaseException] | None = None
        try:
            getattr(theirs, make)(*args, **kwargs)
        except TypeError:
            expected = TypeError
        if expected is not None:
            with pytest.raises(expected):
                getattr(loop, make)(*args, **kwargs)
    theirs.close()
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        getattr(loop, make)(*([0.0, print] if make in ("call_later", "call_at") else [print]))


def test_a_clock_of_the_program_s_own_counts(loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(loop), "time", lambda self: 1000.0, raising=False)
    assert loop.call_later(5, print).when() == 1005.0


# ---------------------------------------------------------------- streams


class Server(asyncio.Protocol):
    """Does with each message what the test says."""

    def __init__(self, does: Any) -> None:
        self.does = does
        self.lost: list[BaseException | None] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.does(self.transport, data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.append(exc)


def serve(does: Any, client: Any) -> Server:
    """Run a server of one connection, and a client, with a socket that blocks, on a thread of its own."""

    async def main() -> Server:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with theirs:
            _, server = await loop.create_connection(lambda: Server(does), sock=ours)
            await asyncio.wait_for(asyncio.to_thread(client, theirs), 60)
        while not server.lost:
            await asyncio.sleep(0.001)
        return server

    return hybridexec.run(main(), engine="native")


def exactly(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = client.recv(count - len(data))
        assert part, data
        data += part
    return data


def test_what_one_step_writes_is_sent_by_one_call() -> None:
    def does(transport: Any, data: bytes) -> None:
        for _ in range(20):
            transport.write(data)

    def client(theirs: socket.socket) -> None:
        theirs.send(b"ab")
        assert theirs.recv(1000) == b"ab" * 20

    serve(does, client)


def test_what_was_written_before_a_block_is_sent_before_it() -> None:
    """The client releases the block when it has seen that."""
    lock = threading.Lock()
    lock.acquire()

    def does(transport: Any, data: bytes) -> None:
        transport.write(b"begins")
        lock.acquire()
        transport.write(b"ends")

    def client(theirs: socket.socket) -> None:
        theirs.send(b"x")
        assert exactly(theirs, 6) == b"begins"
        lock.release()
        assert exactly(theirs, 4) == b"ends"

    serve(does, client)


def test_what_is_written_after_a_block_is_sent_by_one_call() -> None:
    """As before it: the step has the loop again, and nothing is sent before its end."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair()
        with other:
            _, writer = await asyncio.open_connection(sock=one)
            other.setblocking(False)
            lock = threading.Lock()
            lock.acquire()
            loop.call_soon(lock.release)
            lock.acquire()
            writer.write(b"one")
            writer.write(b"two")
            with pytest.raises(BlockingIOError):
                other.recv(6)
            await asyncio.sleep(0)
            assert other.recv(6) == b"onetwo"
            writer.close()
            await writer.wait_closed()

    hybridexec.run(main(), engine="native")


@pytest.mark.parametrize("turns", ["compiled", "debug", "replaced"])
def test_a_step_whose_context_is_entered_waits_for_the_one_that_blocks_in_it(
    turns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs the batch defers it; all others run meanwhile, in their order."""
    if turns == "replaced":
        run = asyncio.Handle._run
        monkeypatch.setattr(asyncio.Handle, "_run", lambda self: run(self))
    order: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        lock = threading.Lock()
        lock.acquire()
        done = loop.create_future()

        def blocks() -> None:
            order.append("blocks")
            lock.acquire()
            order.append("has returned")

        def other() -> None:
            order.append("other")
            lock.release()

        loop.call_soon(blocks, context=context)
        loop.call_soon(order.append, "deferred", context=context)
        loop.call_soon(other)
        loop.call_soon(order.append, "deferred, too", context=context)
        loop.call_soon(functools.partial(loop.call_later, 0, done.set_result, None), context=context)
        await done

    hybridexec.run(main(), engine="native", debug=turns == "debug")
    assert order == ["blocks", "other", "has returned", "deferred", "deferred, too"]


def test_what_was_written_in_a_region_is_sent_at_once() -> None:
    """That step is without the loop: nobody would send it later."""
    lock = threading.Lock()
    lock.acquire()

    def does(transport: Any, data: bytes) -> None:
        with hybridexec.blocking():
            transport.write(b"inside")
            lock.acquire()

    def client(theirs: socket.socket) -> None:
        theirs.send(b"x")
        assert exactly(theirs, 6) == b"inside"
        lock.release()

    serve(does, client)


@pytest.mark.parametrize("end", ["close", "write_eof", "abort"])
def test_the_end_comes_behind_what_was_written(end: str) -> None:
    """Also where more was written than the socket takes, but for ``abort``, which drops that."""
    size = 10 if end == "abort" else 3_000_000

    def does(transport: Any, data: bytes) -> None:
        transport.write(bytes(size))
        getattr(transport, end)()

    def client(theirs: socket.socket) -> None:
        theirs.send(b"x")
        assert exactly(theirs, size) == bytes(size)
        assert theirs.recv(1) == b""

    serve(does, client)


def test_writes_of_all_kinds_keep_their_order() -> None:
    chance = random.Random(3)
    sent = bytearray()

    def does(transport: Any, data: bytes) -> None:
        for _ in range(300):
            part = chance.randbytes(chance.choice([0, 1, 100, 70_000]))
            sent.extend(part)
            kind = chance.choice([bytes, bytearray, memoryview, list])
            if kind is list:
                transport.writelines([part[:50], part[50:]])
            else:
                transport.write(kind(part))
        transport.close()

    def client(theirs: socket.socket) -> None:
        theirs.send(b"x")
        got = bytearray()
        while part := theirs.recv(1 << 20):
            got += part
        assert got == sent

    serve(does, client)


def test_flow_control_is_asyncios() -> None:
    calls: list[str] = []

    class Flows(Server):
        def pause_writing(self) -> None:
            calls.append("pause")

        def resume_writing(self) -> None:
            calls.append("resume")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with theirs:
            transport, _ = await loop.create_connection(lambda: Flows(None), sock=ours)
            size = 0
            while not calls:
                transport.write(bytes(10_000))
                size += 10_000
            assert transport.get_write_buffer_size() > 0
            assert calls == ["pause"]
            await asyncio.to_thread(exactly, theirs, size)
            while len(calls) < 2:
                await asyncio.sleep(0.001)
            assert calls == ["pause", "resume"]
            transport.close()

    hybridexec.run(main(), engine="native")


def test_an_error_of_a_write_is_the_connection_s() -> None:
    def does(transport: Any, data: bytes) -> None:
        time.sleep(0)
        for _ in range(3):
            transport.write(b"x")

    def client(theirs: socket.socket) -> None:
        theirs.shutdown(socket.SHUT_RD)
        theirs.send(b"x")

    server = serve(does, client)
    assert [type(exc) for exc in server.lost] == [BrokenPipeError]


class Tail(Server):
    """Writes once more when what was too much has been sent: by then the transport closes."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(1, 0)
        transport.write(b"x" * 5_000_000)
        transport.close()

    def resume_writing(self) -> None:
        """The buffer is empty.  Where the socket were full, asyncio would break off: so wait for the client to read."""
        ours = self.transport.get_extra_info("socket").fileno()
        while not select.select([], [ours], [], 0)[1]:
            pass
        self.transport.write(b"tail")


def test_what_is_written_while_a_transport_closes_is_sent_as_by_asyncio() -> None:
    async def main() -> tuple[int, bytes, list[BaseException | None]]:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()

        def client() -> bytes:
            said = b""
            while data := theirs.recv(1 << 20):
                said += data
            return said

        with theirs:
            _, server = await loop.create_connection(lambda: Tail(None), sock=ours)
            said = await asyncio.wait_for(asyncio.to_thread(client), 60)
            return len(said), said[-4:], server.lost

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        theirs = runner.run(main())
    assert hybridexec.run(main(), engine="native") == theirs


def test_a_socket_that_is_asked_for_finds_sent_what_was_written() -> None:
    def does(transport: Any, data: bytes) -> None:
        transport.write(b"before")
        transport.get_extra_info("socket").shutdown(socket.SHUT_WR)

    def client(theirs: socket.socket) -> None:
        theirs.send(b"x")
        assert exactly(theirs, 6) == b"before"
        assert theirs.recv(1) == b""

    serve(does, client)


def test_a_socket_with_methods_of_its_own_is_read_and_written_by_them() -> None:
    calls: collections.Counter[str] = collections.Counter()

    class Counting(socket.socket):
        def recv(self, *args: Any) -> bytes:
            calls["recv"] += 1
            return super().recv(*args)

        def send(self, *args: Any) -> int:
            calls["send"] += 1
            return super().send(*args)

    async def main() -> None:
        one, other = socket.socketpair()
        with other:
            other.send(b"read")
            reader, writer = await asyncio.open_connection(sock=Counting(fileno=one.detach()))
            assert await reader.readexactly(4) == b"read"
            writer.write(b"written")
            assert exactly(other, 7) == b"written"
            writer.close()
            await writer.wait_closed()

    hybridexec.run(main(), engine="native")
    assert calls == {"recv": 1, "send": 1}


def test_a_tool_in_the_place_of_get_extra_info_is_asked_as_on_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def instead(self: Any, *args: Any, **named: Any) -> None:
        asked.append((args, named))

    async def main() -> None:
        one, other = socket.socketpair()
        with other:
            _, writer = await asyncio.open_connection(sock=one)
            monkeypatch.setattr(asyncio.BaseTransport, "get_extra_info", instead)
            writer.transport.get_extra_info("peername")
            writer.transport.get_extra_info("peername", default=1)
            writer.close()

    hybridexec.run(main(), engine="native")
    assert asked == [(("peername",), {}), (("peername",), {"default": 1})]


def test_what_was_written_before_a_fork_is_sent_once() -> None:
    def does(transport: Any, data: bytes) -> None:
        transport.write(b"once")
        pid = os.fork()
        if not pid:
            transport._flush()
            os._exit(0)
        os.waitpid(pid, 0)
        transport.close()

    def client(theirs: socket.socket) -> None:
        theirs.send(b"x")
        assert exactly(theirs, 4) == b"once"
        assert theirs.recv(1) == b""

    serve(does, client)


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
def test_what_was_written_is_sent_when_the_run_ends_by_an_exception(end: type[BaseException]) -> None:
    """By the step that raises, and by one before it in the same batch."""
    loop = hybridexec.new_event_loop(engine="native")
    pairs = [socket.socketpair() for _ in range(2)]
    made: list[Any] = []

    async def main() -> None:
        for ours, _ in pairs:
            made.append((await loop.create_connection(lambda: Server(None), sock=ours))[0])
        loop.call_soon(made[0].write, b"bye")

        def ends() -> None:
            made[1].write(b"bye")
            raise end

        loop.call_soon(ends)
        await loop.create_future()

    with contextlib.ExitStack() as stack:
        for _, theirs in pairs:
            stack.enter_context(theirs)
        with pytest.raises(end):
            loop.run_until_complete(main())
        for _, theirs in pairs:
            theirs.settimeout(60)
            assert exactly(theirs, 3) == b"bye"
        for transport in made:
            transport.abort()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(loop)))
        loop.close()


def test_a_stop_while_the_last_writes_are_sent_counts() -> None:
    """``pause_writing`` is called when the batch has ended."""

    class Stops(Server):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.set_write_buffer_limits(60_000)

        def pause_writing(self) -> None:
            asyncio.get_running_loop().stop()

    loop = hybridexec.new_event_loop(engine="native")
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        transport, _ = loop.run_until_complete(loop.create_connection(lambda: Stops(None), sock=ours))

        def writes() -> None:
            for _ in range(300):
                transport.write(b"x" * 1000)

        loop.call_soon(writes)
        loop.run_forever()
        transport.abort()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


@pytest.mark.parametrize("name", ["_ready", "_scheduled", "_carrying"])
def test_what_a_loop_cannot_do_without_cannot_be_deleted(loop: Any, name: str) -> None:
    with pytest.raises(AttributeError, match="cannot be deleted"):
        delattr(loop, name)


def test_a_time_that_is_no_number_is_due(loop: Any) -> None:
    """As on asyncio."""
    came: list[int] = []
    loop.call_later(float("nan"), came.append, 1)
    loop.call_later(0, loop.stop)
    loop.run_forever()
    assert came == [1]


def test_many_that_compute_beside_one_that_blocks_are_answered_one_by_one() -> None:
    """While any step is without the loop, each step is looked at, and nothing is queued."""
    first = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with theirs:
            transport, _ = await loop.create_connection(lambda: Server(None), sock=ours)
            over = threading.Event()

            def client() -> None:
                assert theirs.recv(1) == b"1"
                first.set()

            thread = threading.Thread(target=client)
            thread.start()
            loop.call_soon(over.wait)
            await asyncio.sleep(0.01)  # it is without the loop now
            loop.call_soon(transport.write, b"1")
            loop.call_soon(busy_until, first)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            over.set()
            thread.join()
            transport.close()

    def busy_until(event: threading.Event) -> None:
        while not event.is_set():
            pass

    hybridexec.run(main(), engine="native")


def test_written_outside_of_a_run_is_sent_at_once(loop: Any) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        transport, _ = loop.run_until_complete(loop.create_connection(lambda: Server(None), sock=ours))
        transport.write(b"now")
        assert theirs.recv(10) == b"now"
        transport.close()
        loop.run_until_complete(asyncio.sleep(0.001))


# ---------------------------------------------------------------- turns


def busy(loop: Any, until: Any) -> None:
    """A callback that schedules itself, so that there is always something to run."""
    if not until():
        loop.call_soon(busy, loop, until)


def while_busy(begin: Any) -> None:
    """Run a loop that always has something to run until what begins there calls what it is given."""
    over: list[bool] = []
    loop = hybridexec.new_event_loop(engine="native")

    def done(*_: object) -> None:
        over.append(True)
        loop.stop()

    try:
        loop.call_soon(begin, loop, done)
        loop.call_soon(busy, loop, lambda: over)
        loop.run_forever()
    finally:
        loop.close()


def test_timers_come_due_while_the_loop_is_busy() -> None:
    while_busy(lambda loop, done: loop.call_later(0.001, done))


def test_events_come_while_the_loop_is_busy() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def begin(loop: Any, done: Any) -> None:
            loop.add_reader(ours, lambda: (loop.remove_reader(ours), done()))
            theirs.send(b"x")

        while_busy(begin)


def test_signals_come_while_the_loop_is_busy() -> None:
    """Where all steps are C: none of them has an instruction between which the interpreter could look."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        came = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, came.set_result, None)
        chain = itertools.repeat(None)
        step = functools.partial(next, chain)

        def begin() -> None:
            os.kill(os.getpid(), signal.SIGUSR1)
            loop.call_soon(step)

        loop.call_soon(begin)
        await came

    hybridexec.run(main(), engine="native")


def test_a_nested_run_ends_while_the_loop_is_busy() -> None:
    """Each of its turns is the last one that it may run."""
    process = start(
        """
import asyncio, nest_asyncio2, hybridexec

nest_asyncio2.apply()

async def nested():
    await asyncio.sleep(0)
    return 42

async def main():
    loop = asyncio.get_running_loop()
    over = []

    def busy():
        if not over:
            loop.call_soon(busy)

    busy()
    print(loop.run_until_complete(nested()))
    over.append(True)

hybridexec.run(main(), engine="native", mode="observe")
"""
    )
    said, _ = process.communicate(timeout=60)
    assert said.split() == ["42"]


def test_debug_mode_begins_while_the_loop_is_busy() -> None:
    def begin(loop: Any, done: Any) -> None:
        loop.set_debug(True)
        loop.call_soon(seen, loop, done)

    def seen(loop: Any, done: Any) -> None:
        if loop._current_handle is None:
            loop.call_soon(seen, loop, done)
        else:
            done()

    while_busy(begin)


def test_a_tool_sees_callbacks_from_the_next_turn_on(monkeypatch: pytest.MonkeyPatch) -> None:
    run = asyncio.Handle._run

    def begin(loop: Any, done: Any) -> None:
        def seen(handle: Any) -> None:
            monkeypatch.undo()
            done()
            run(handle)

        monkeypatch.setattr(asyncio.Handle, "_run", seen)

    while_busy(begin)


def test_a_stop_counts_while_the_loop_is_busy(loop: Any) -> None:
    loop.call_soon(busy, loop, lambda: False)
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_what_one_step_writes_does_not_wait_for_the_end_of_another() -> None:
    """The other one computes until the client has seen it, and gives nobody the loop meanwhile."""
    seen = threading.Event()

    def computes() -> None:
        while not seen.is_set():
            pass

    def does(transport: Any, data: bytes) -> None:
        transport.write(data)
        asyncio.get_running_loop().call_soon(computes)
        asyncio.get_running_loop().call_soon(computes)

    def writes_in_that_batch(transport: Any, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(transport.write, data)
        loop.call_soon(computes)

    def client(theirs: socket.socket) -> None:
        theirs.send(b"x")
        assert theirs.recv(1) == b"x"
        seen.set()

    serve(does, client)
    seen.clear()
    serve(writes_in_that_batch, client)


# ---------------------------------------------------------------- tasks


async def nothing() -> None:
    pass


@pytest.mark.parametrize("debug", [False, True])
def test_tasks_are_made_as_asyncios(loop: Any, debug: bool) -> None:
    loop.set_debug(debug)
    context = contextvars.Context()
    task = loop.create_task(nothing(), name="its name", context=context)
    assert type(task) is asyncio.Task
    assert task.get_name() == "its name"
    assert task.get_context() is context
    assert loop.create_task(nothing()).get_name().startswith("Task-")
    loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(loop)))


def test_a_task_factory_counts(loop: Any) -> None:
    made = []

    def factory(loop: Any, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **kwargs)

    assert loop.get_task_factory() is None
    loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory
    coro = nothing()
    loop.run_until_complete(loop.create_task(coro))
    assert made == [coro]


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1,), {}), ((None, None), {}), ((None,), {"nome": "x"}), ((None,), {"loop": None})]
)
def test_wrong_arguments_of_create_task_are_refused_as_by_asyncio(
    loop: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    theirs = asyncio.SelectorEventLoop()
    with contextlib.closing(theirs):
        with pytest.raises(TypeError) as expected:
            theirs.create_task(*args, **kwargs)
        with pytest.raises(TypeError) as raised:
            loop.create_task(*args, **kwargs)
    assert str(raised.value) == str(expected.value)


def test_no_task_is_made_on_a_closed_loop() -> None:
    loop = hybridexec.new_event_loop(engine="native")
    loop.close()
    coro = nothing()
    with pytest.raises(RuntimeError, match="closed"):
        loop.create_task(coro)
    coro.close()


def test_the_memory_of_steps_is_used_again(loop: Any) -> None:
    """Each is as new: not cancelled, and without what the one before it has kept."""
    gone = []

    class Kept:
        pass

    for number in range(300):
        kept = Kept()
        weak = weakref.ref(kept)
        gone.append(weak)
        handle = loop.call_soon(print, kept)
        assert not handle.cancelled()
        watched = weakref.ref(handle)
        handle.cancel()
        del handle, kept
        if number % 100 == 0:
            loop.run_until_complete(asyncio.sleep(0))
            assert watched() is None
    loop.run_until_complete(asyncio.sleep(0))
    assert not any(weak() for weak in gone)


# ---------------------------------------------------------------- leaks


async def connections(count: int) -> None:
    """Connections of both kinds of protocols, each with a message there and back."""
    loop = asyncio.get_running_loop()
    for number in range(count):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        done = loop.create_future()
        with theirs:
            make = functools.partial(Answering, done) if number % 2 else functools.partial(Oracle, "nothing", done)
            transport, _ = await loop.connect_accepted_socket(make, ours)
            theirs.send(b"x")
            await asyncio.sleep(0)
            transport.write(b"y" * 100)
            transport.close()
            await done


class Answering(asyncio.Protocol):
    """Sends what comes."""

    def __init__(self, done: asyncio.Future[None]) -> None:
        self.done = done

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is over."""
        self.done.set_result(None)

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Send it."""
        self.transport.write(data)


async def timers(count: int) -> None:
    loop = asyncio.get_running_loop()
    for number in range(count):
        timer = loop.call_later(number % 2 * 5, print)
        timer.cancel()
        loop.call_later(0, bool, number)
        await asyncio.sleep(0)
    await asyncio.sleep(0.001)


async def tasks(count: int) -> None:
    for _ in range(count):
        await asyncio.gather(nothing(), asyncio.sleep(0), return_exceptions=True)


async def readers(count: int) -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")
        for _ in range(count):
            came = loop.create_future()
            loop.add_reader(ours, came.set_result, None)
            await came
            loop.remove_reader(ours)


def grown(many: Any, count: int) -> int:
    """By how many blocks of memory the process grows each time, at least."""

    async def main() -> int:
        blocks = []
        for _ in range(5):
            await many(count)
            gc.collect()
            blocks.append(sys.getallocatedblocks())
        return min(after - before for before, after in itertools.pairwise(blocks))

    return hybridexec.run(main(), engine="native")


@pytest.mark.parametrize("many", [connections, timers, tasks, readers])
def test_nothing_is_left_of_many(many: Any) -> None:
    assert grown(many, 1000) < 500


@pytest.mark.hunt
@pytest.mark.timeout(900)
@pytest.mark.parametrize("many", [connections, timers, tasks, readers])
def test_nothing_is_left_of_a_million(many: Any) -> None:
    assert grown(many, 30_000 if many is connections else 300_000) < 5000


# ---------------------------------------------------------------- buffered protocols


class Oracle(asyncio.BufferedProtocol):
    """Tells what becomes of a connection whose buffer is wrong."""

    def __init__(self, wrong: str, done: asyncio.Future[str]) -> None:
        self.wrong = wrong
        self.done = done

    def get_buffer(self, sizehint: int) -> Any:
        """Where to."""
        assert sizehint == -1
        match self.wrong:
            case "raises":
                raise LookupError
            case "is empty":
                return bytearray()
            case "is read-only":
                return b"1234"
            case "is none":
                return None
        return bytearray(10)

    def buffer_updated(self, nbytes: int) -> None:
        """It came."""
        if self.wrong == "updated":
            raise LookupError

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is over."""
        self.done.set_result(f"{type(exc).__name__}: {exc}")


def told(new_loop: Any, wrong: str) -> list[str]:
    """What is told to the exception handler, and to ``connection_lost``, of a protocol whose buffer is wrong."""
    said: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: said.append(context["message"]))
        done = loop.create_future()
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            await loop.connect_accepted_socket(lambda: Oracle(wrong, done), ours)
            theirs.send(b"x")
            if wrong == "nothing":
                theirs.shutdown(socket.SHUT_WR)
            said.append(await done)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
    return said


native = functools.partial(hybridexec.new_event_loop, engine="native")


@pytest.mark.parametrize("wrong", ["raises", "is empty", "updated", "nothing"])
def test_what_goes_wrong_with_a_buffer_is_told_as_by_asyncio(wrong: str) -> None:
    assert told(native, wrong) == told(asyncio.SelectorEventLoop, wrong)


@pytest.mark.parametrize("wrong", ["is read-only", "is none"])
def test_what_is_no_buffer_ends_the_connection(wrong: str) -> None:
    assert told(native, wrong)[-1].startswith(("BufferError", "TypeError"))
