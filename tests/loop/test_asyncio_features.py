"""What asyncio offers, wherever the loop is carried: at home, on a spare, on the move."""

from __future__ import annotations

import _thread
import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import gc
import logging
import os
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import holds, lwps, pipe, running_loop

import hybridexec

type Body = Callable[[], Coroutine[Any, Any, Any]]
type Where = Callable[..., Any]


def at_home() -> bool:
    """Whether the calling code runs on the home."""
    return _thread.get_ident() == threading.main_thread().ident


async def on_a_spare(body: Body) -> Any:
    """Await a body while the home is blocked on what only the end of the body releases."""
    with pipe() as (reader, writer):

        async def carried() -> Any:
            try:
                assert not at_home()
                result = await body()
                assert not at_home()
                return result
            finally:
                os.write(writer, b"x")

        task = asyncio.create_task(carried())
        assert at_home()
        os.read(reader, 1)
        assert holds(asyncio.get_running_loop())
        return await task


async def on_the_move(body: Body) -> Any:
    """Await a body while other tasks block whoever carries the loop, over and over."""
    over = False

    async def blocks() -> None:
        while not over:
            time.sleep(0.002)
            await asyncio.sleep(0.0005)

    blockers = [asyncio.create_task(blocks()) for _ in range(2)]
    try:
        return await body()
    finally:
        over = True
        await asyncio.gather(*blockers)


async def at_ease(body: Body) -> Any:
    """Await a body and nothing else."""
    assert at_home()
    return await body()


@pytest.fixture(params=[at_ease, on_a_spare, on_the_move], ids=["home", "spare", "move"])
def run(request: pytest.FixtureRequest) -> Iterator[Where]:
    """Runs a body at home, on a spare, or on the move."""

    def runs(body: Body, **options: Any) -> Any:
        return hybridexec.run(request.param(body), **options)

    yield runs
    assert not lwps()


# ---------------------------------------------------------------- processes


def test_a_subprocess_is_talked_to(run: Where) -> None:
    async def body() -> None:
        process = await asyncio.create_subprocess_exec(
            "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        answer: tuple[bytes, bytes | None] = await process.communicate(b"text")
        assert answer == (b"text", None)
        assert process.returncode == 0

    run(body)


def test_a_shell_ends_with_its_status(run: Where) -> None:
    async def body() -> None:
        process = await asyncio.create_subprocess_shell("read line; echo $line >&2; exit 7", stdin=-1, stderr=-1)
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"line\n")
        assert await process.stderr.readline() == b"line\n"
        assert await process.wait() == 7

    run(body)


def test_a_subprocess_is_killed(run: Where) -> None:
    async def body() -> None:
        process = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE)
        process.kill()
        assert await process.wait() == -9

    run(body)


def test_many_subprocesses_at_once(run: Where) -> None:
    async def one(number: int) -> int:
        process = await asyncio.create_subprocess_exec("sh", "-c", f"exit {number}")
        return await process.wait()

    async def body() -> None:
        assert await asyncio.gather(*map(one, range(8))) == list(range(8))

    run(body)


# ---------------------------------------------------------------- threads


def test_executors(run: Where) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        me = _thread.get_ident()
        assert await loop.run_in_executor(None, _thread.get_ident) != me
        assert await asyncio.to_thread(pow, 2, 5) == 32
        with concurrent.futures.ThreadPoolExecutor(2) as executor:
            assert await loop.run_in_executor(executor, functools.partial(int, "ff", base=16)) == 255
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(divmod, 1, 0)

    run(body)


def test_to_thread_releases_a_blocked_step(run: Where) -> None:
    async def body() -> None:
        lock = threading.Lock()
        lock.acquire()

        async def release() -> None:
            await asyncio.to_thread(lock.release)

        task = asyncio.create_task(release())
        lock.acquire()
        await task

    run(body)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="came with 3.14")
def test_another_thread_that_cancels_a_call_waits_for_it_if_it_has_begun(run: Where) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        begun, order = threading.Event(), list[str]()
        gate = threading.Event()

        def callback() -> None:
            begun.set()
            gate.wait()
            order.append("called")

        def other() -> None:
            handle = loop.call_soon_threadsafe(callback)
            begun.wait()
            loop.call_soon_threadsafe(gate.set)
            handle.cancel()
            order.append("cancelled")

        await asyncio.to_thread(other)
        assert order == ["called", "cancelled"]

    run(body)


def test_calls_from_other_threads(run: Where) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        order: list[int] = []
        done = asyncio.Event()

        async def answer(number: int) -> int:
            assert holds(loop)
            await asyncio.sleep(0)
            return number + 1

        def other() -> int:
            for number in range(50):
                loop.call_soon_threadsafe(order.append, number)
            future = asyncio.run_coroutine_threadsafe(answer(41), loop)
            result = future.result()
            loop.call_soon_threadsafe(done.set)
            return result

        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            future = executor.submit(other)
            await done.wait()
            assert future.result() == 42
        assert order == list(range(50))

    run(body)


# ---------------------------------------------------------------- the net


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send everything back."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int = 300_000) -> None:
    """Send something to an echo, and read it."""
    data = os.urandom(size)
    writer.write(data)
    received, _ = await asyncio.gather(reader.readexactly(size), writer.drain())
    assert received == data
    writer.close()
    await writer.wait_closed()


def test_tcp(run: Where) -> None:
    async def body() -> None:
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            await asyncio.gather(*[talk(*await asyncio.open_connection(*address)) for _ in range(4)])

    run(body)


def test_unix_sockets(run: Where, tmp_path: Path) -> None:
    async def body() -> None:
        path = tmp_path / "socket"
        async with await asyncio.start_unix_server(echo, path):
            await talk(*await asyncio.open_unix_connection(path))
        path.unlink(missing_ok=True)

    run(body)


def test_tls(run: Where, certificates: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def body() -> None:
        server_context, client_context = certificates
        async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_context) as server:
            address = server.sockets[0].getsockname()

            async def client() -> None:
                await talk(*await asyncio.open_connection(*address, ssl=client_context, server_hostname="localhost"))

            await asyncio.gather(*(client() for _ in range(3)))

    run(body)


def test_starttls(run: Where, certificates: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server_context, client_context = certificates

    async def upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"starttls\n"
        writer.write(b"go\n")
        await writer.start_tls(server_context)
        await echo(reader, writer)

    async def body() -> None:
        async with await asyncio.start_server(upgrade, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"starttls\n")
            assert await reader.readline() == b"go\n"
            await writer.start_tls(client_context, server_hostname="localhost")
            await talk(reader, writer, 1000)

    run(body)


class Datagrams(asyncio.DatagramProtocol):
    """Sends datagrams back, or keeps them."""

    def __init__(self, keep: asyncio.Queue[bytes] | None = None) -> None:
        self._keep = keep

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        if self._keep is None:
            self._transport.sendto(data, address)
        else:
            self._keep.put_nowait(data)


def test_udp(run: Where) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        kept: asyncio.Queue[bytes] = asyncio.Queue()
        server, _ = await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
        address = server.get_extra_info("sockname")
        client, _ = await loop.create_datagram_endpoint(lambda: Datagrams(kept), remote_addr=address)
        for number in range(20):
            client.sendto(b"%d" % number)
            assert await kept.get() == b"%d" % number
        client.close()
        server.close()

    run(body)


def test_sockets_of_the_program(run: Where) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as listener, socket.socket() as ours:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            listener.setblocking(False)
            ours.setblocking(False)
            accepted = asyncio.create_task(loop.sock_accept(listener))
            await loop.sock_connect(ours, listener.getsockname())
            theirs, _ = await accepted
            with theirs:
                received = asyncio.create_task(loop.sock_recv(theirs, 10))
                await asyncio.sleep(0)
                await loop.sock_sendall(ours, b"text")
                assert await received == b"text"

    run(body)


def test_readers_and_writers(run: Where) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for each in (ours, theirs):
                each.setblocking(False)
            got: asyncio.Queue[bytes] = asyncio.Queue()
            loop.add_reader(theirs, lambda: got.put_nowait(theirs.recv(10)))
            writable = asyncio.Event()
            loop.add_writer(ours, writable.set)
            await writable.wait()
            assert loop.remove_writer(ours)
            for _ in range(20):
                ours.send(b"x")
                assert await got.get() == b"x"
            assert loop.remove_reader(theirs)
            assert not loop.remove_reader(theirs)

    run(body)


def test_a_file_descriptor_is_closed_and_used_again(run: Where) -> None:
    """Events of the old one never reach the new one's reader."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(30):
            with pipe() as (reader, writer):
                ready = asyncio.Event()
                loop.add_reader(reader, ready.set)
                os.write(writer, b"x")
                await ready.wait()
                loop.remove_reader(reader)
            with pipe() as (reader, writer):
                ready = asyncio.Event()
                loop.add_reader(reader, ready.set)
                for _ in range(3):
                    await asyncio.sleep(0)
                assert not ready.is_set()
                loop.remove_reader(reader)

    run(body)


def test_pipes(run: Where) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        read, write = os.pipe()
        reader = asyncio.StreamReader()
        incoming, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read, "rb", 0)
        )
        outgoing, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(write, "wb", 0))
        writer = asyncio.StreamWriter(outgoing, protocol, None, loop)
        data = os.urandom(300_000)
        writer.write(data)
        received, _ = await asyncio.gather(reader.readexactly(len(data)), writer.drain())
        assert received == data
        writer.close()
        assert await reader.read() == b""
        incoming.close()

    run(body)


def test_sendfile(run: Where, tmp_path: Path) -> None:
    data = os.urandom(500_000)
    path = tmp_path / "file"
    path.write_bytes(data)

    async def sends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with path.open("rb") as file:
            assert await asyncio.get_running_loop().sendfile(writer.transport, file) == len(data)
        writer.close()

    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with await asyncio.start_server(sends, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read(-1) == data
            writer.close()
        ours, theirs = socket.socketpair()
        with ours, theirs, path.open("rb") as file:
            ours.setblocking(False)
            theirs.setblocking(False)
            sent = asyncio.create_task(loop.sock_sendfile(ours, file))
            received = b""
            while len(received) < len(data):
                received += await loop.sock_recv(theirs, 100_000)
            assert await sent == len(data)
            assert received == data

    run(body)


def test_sendfile_to_a_transport_that_is_full(run: Where, tmp_path: Path) -> None:
    """What was written before comes first, and who waits in drain() is told."""
    data = os.urandom(300_000)
    path = tmp_path / "file"
    path.write_bytes(data)

    async def body() -> None:
        loop = asyncio.get_running_loop()
        served: asyncio.Future[int] = loop.create_future()

        async def sends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            before = 0
            while writer.transport.get_write_buffer_size() < 200_000:
                writer.write(b"a" * 1_000_000)  # more than the other side reads at a time
                before += 1_000_000
                await asyncio.sleep(0)
            drained = asyncio.create_task(writer.drain())
            with path.open("rb") as file:
                assert await loop.sendfile(writer.transport, file, 1000, 200_000) == 200_000
                assert file.tell() == 201_000
            await drained
            writer.write(b"z")
            served.set_result(before)
            assert await reader.read() == b"still read"
            writer.close()

        async with await asyncio.start_server(sends, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            received = await reader.readexactly(300_000)
            writer.write(b"still read")
            writer.write_eof()
            received += await reader.read()
            before = await served
            assert received == b"a" * before + data[1000:201_000] + b"z"
            writer.close()

    run(body)


def test_datagrams_by_sockets(run: Where) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(type=socket.SOCK_DGRAM) as ours, socket.socket(type=socket.SOCK_DGRAM) as theirs:
            for sock in (ours, theirs):
                sock.setblocking(False)
                sock.bind(("127.0.0.1", 0))
            waits = asyncio.create_task(loop.sock_recvfrom(theirs, 100))
            await asyncio.sleep(0)
            assert await loop.sock_sendto(ours, b"first", theirs.getsockname()) == 5
            assert await waits == (b"first", ours.getsockname())
            buffer = bytearray(100)
            waits_too = asyncio.create_task(loop.sock_recvfrom_into(theirs, buffer))
            await asyncio.sleep(0)
            await loop.sock_sendto(ours, b"second", theirs.getsockname())
            assert await waits_too == (6, ours.getsockname())
            assert buffer.startswith(b"second")
            cancelled = asyncio.create_task(loop.sock_recvfrom(theirs, 100))
            await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.wait([cancelled])
            await loop.sock_sendto(ours, b"third", theirs.getsockname())
            assert (await loop.sock_recvfrom(theirs, 100))[0] == b"third"
            assert not loop.remove_reader(theirs)

    run(body)


def test_names(run: Where) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        assert await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        assert (await loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV))[1] == "80"
        assert socket.getaddrinfo("localhost", 80)

    run(body)


# ---------------------------------------------------------------- tasks


def test_eager_tasks(run: Where) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        lock = threading.Lock()
        lock.acquire()
        order: list[str] = []

        async def blocks() -> asyncio.Task[Any] | None:
            order.append("blocks")
            lock.acquire()
            order.append("goes on")
            return asyncio.current_task()

        async def quick() -> int:
            order.append("quick")
            return 1

        assert await asyncio.create_task(quick()) == 1
        loop.call_soon(lock.release)
        task = asyncio.create_task(blocks())
        assert task.done()
        assert task.result() is not asyncio.current_task()
        assert order == ["quick", "blocks", "goes on"]
        loop.set_task_factory(None)

    run(body)


def test_task_groups(run: Where) -> None:
    async def body() -> None:
        lock = threading.Lock()
        order: list[str] = []

        async def takes(name: str) -> str:
            lock.acquire()  # held across an await: on asyncio's own loop the second would hang for ever
            order.append(name)
            await asyncio.sleep(0.001)
            assert order[-1] == name
            lock.release()
            return name

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(takes(f"{number}")) for number in range(6)]
        assert sorted(task.result() for task in tasks) == sorted(order) == [f"{number}" for number in range(6)]

    run(body)


def test_a_task_group_waits_for_a_blocked_task_that_it_cancels(run: Where) -> None:
    async def body() -> None:
        order: list[str] = []
        with pipe() as (reader, writer):

            async def blocks() -> None:
                os.read(reader, 1)
                order.append("goes on")
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    order.append("is cancelled")
                    raise

            async def fails() -> None:
                asyncio.get_running_loop().call_soon(os.write, writer, b"x")
                order.append("fails")
                raise LookupError

            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.TaskGroup() as group:
                    group.create_task(blocks())
                    group.create_task(fails())
            assert caught.value.subgroup(LookupError)
        assert order == ["fails", "goes on", "is cancelled"]

    run(body)


def test_a_timeout_fires_while_its_task_is_blocked(run: Where) -> None:
    """Only a timer that is set behind the timeout's own releases the block."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        order: list[str] = []
        with pipe() as (reader, writer):

            def releases() -> None:
                order.append("releases" if scope.when() is not None and scope.expired() else "is too early")
                os.write(writer, b"x")

            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.005) as scope:
                    when = scope.when()
                    assert when is not None
                    loop.call_at(when + 0.001, releases)
                    os.read(reader, 1)
                    order.append("goes on")
                    await asyncio.sleep(60)
            assert order == ["releases", "goes on"]

    run(body)


def test_a_timeout_of_a_block_without_an_await_behind_it_is_not_told(run: Where) -> None:
    """As on asyncio: the timeout has come too late to be told.  Before 3.13 the next await tells of it."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        with pipe() as (reader, writer):
            async with asyncio.timeout(0.002) as scope:
                when = scope.when()
                assert when is not None
                loop.call_at(when + 0.001, os.write, writer, b"x")
                os.read(reader, 1)
            assert scope.expired()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        with contextlib.nullcontext() if sys.version_info >= (3, 13) else pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)

    run(body)


def test_a_blocked_task_is_cancelled(run: Where) -> None:
    async def body() -> None:
        order: list[str] = []
        with pipe() as (reader, writer):

            async def blocks() -> None:
                try:
                    os.read(reader, 1)
                    order.append("goes on")
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    order.append("is cancelled")
                    raise

            task = asyncio.create_task(blocks())
            await asyncio.sleep(0)
            task.cancel()
            order.append("cancels")
            os.write(writer, b"x")
            with pytest.raises(asyncio.CancelledError):
                await task
        assert order == ["cancels", "goes on", "is cancelled"]

    run(body)


def test_wait_for_a_blocked_task(run: Where) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        with pipe() as (reader, writer):

            async def blocks() -> None:
                os.read(reader, 1)
                await asyncio.sleep(60)

            task = asyncio.create_task(blocks())
            loop.call_later(0.01, os.write, writer, b"x")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(task, 0.002)
            assert task.cancelled()

    run(body)


def test_synchronizers(run: Where) -> None:
    """asyncio's own, between tasks that block."""

    async def body() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue(3)
        mutex = asyncio.Lock()
        inside = 0
        received: list[int] = []

        async def produces(first: int) -> None:
            for number in range(first, first + 15):
                time.sleep(0.0012)
                await queue.put(number)

        async def consumes() -> None:
            nonlocal inside
            for _ in range(15):
                number = await queue.get()
                async with mutex:
                    inside += 1
                    time.sleep(0.0012)
                    assert inside == 1
                    inside -= 1
                received.append(number)

        await asyncio.gather(produces(0), consumes(), produces(15), consumes())
        assert sorted(received) == list(range(30))

    run(body)


def test_context_variables(run: Where) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def one(name: str) -> None:
        variable.set(name)
        for _ in range(5):
            time.sleep(0.0012)
            assert variable.get() == name
            await asyncio.sleep(0)
            assert variable.get() == name
        assert await asyncio.to_thread(variable.get) == name
        inner = asyncio.create_task(asyncio.sleep(0, variable.get()))
        assert await inner == name

    async def body() -> None:
        await asyncio.gather(*(one(f"{number}") for number in range(6)))
        with pytest.raises(LookupError):
            variable.get()

    run(body)


# ---------------------------------------------------------------- asynchronous generators


def test_an_abandoned_generator_is_closed(run: Where) -> None:
    async def body() -> None:
        closed = asyncio.Event()

        async def numbers() -> AsyncIterator[int]:
            try:
                for number in range(10):
                    yield number
                    time.sleep(0.0012)
            finally:
                await asyncio.sleep(0)
                closed.set()

        async def abandons() -> None:
            async for number in numbers():
                if number == 2:
                    break

        await abandons()
        gc.collect()
        await closed.wait()

    run(body)


def test_generators_are_closed_at_the_end(run: Where) -> None:
    order: list[str] = []
    kept: list[Any] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            time.sleep(0.0012)
            order.append("closed")

    async def body() -> None:
        generator = numbers()
        kept.append(generator)
        assert await anext(generator) == 1
        order.append("ends")

    run(body)
    assert order == ["ends", "closed"]


# ---------------------------------------------------------------- debug mode


def test_debug_mode_refuses_calls_from_other_threads(run: Where) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        assert loop.get_debug()

        def elsewhere(call: Callable[..., Any], *arguments: Any) -> None:
            with pytest.raises(RuntimeError, match="Non-thread-safe operation"):
                call(*arguments)

        for _ in range(5):
            await asyncio.to_thread(elsewhere, loop.call_soon, int)
            await asyncio.to_thread(elsewhere, loop.call_later, 0, int)
            time.sleep(0.0012)
            loop.call_soon(int)
            loop.call_later(0, int)
            await asyncio.sleep(0)
            loop.call_at(loop.time(), int)

    run(body, debug=True)


def test_debug_mode_tells_of_slow_steps(run: Where, caplog: pytest.LogCaptureFixture) -> None:
    async def slow() -> None:
        until = time.monotonic() + 0.02
        while time.monotonic() < until:
            pass

    async def body() -> None:
        asyncio.get_running_loop().slow_callback_duration = 0.01
        await asyncio.create_task(slow(), name="the slow one")

    with caplog.at_level(logging.WARNING, "asyncio"):
        run(body, debug=True)
    executed = re.compile(r"Executing <Task \w+ name='the slow one'")  # what waits for it may have been slow, too
    assert len([record for record in caplog.records if executed.match(record.getMessage())]) == 1


def test_debug_mode_does_everything(run: Where) -> None:
    async def body() -> None:
        assert sys.get_coroutine_origin_tracking_depth() > 0
        lock = threading.Lock()
        lock.acquire()

        async def release() -> None:
            assert sys.get_coroutine_origin_tracking_depth() > 0
            await asyncio.sleep(0.001)
            lock.release()

        task = asyncio.create_task(release())
        lock.acquire()
        await task
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            await talk(*await asyncio.open_connection(*server.sockets[0].getsockname()), 1000)

    run(body, debug=True)
    assert sys.get_coroutine_origin_tracking_depth() == 0


def test_debug_mode_is_switched_while_it_runs(run: Where) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        assert loop.get_debug()
        assert sys.get_coroutine_origin_tracking_depth() > 0
        time.sleep(0.002)
        await asyncio.sleep(0.001)
        loop.set_debug(False)
        time.sleep(0.002)
        await asyncio.sleep(0.001)
        assert sys.get_coroutine_origin_tracking_depth() == 0

    run(body)


def test_debug_mode_tells_where_a_handle_was_made(run: Where) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        handles: list[Any] = [
            loop.call_soon(int),
            loop.call_soon_threadsafe(int),
            loop.call_later(0, int),
            loop.call_at(loop.time(), int),
        ]
        for handle in handles:
            made = handle._source_traceback[-1]
            assert (made.filename, made.name) == (__file__, "body")

    run(body, debug=True)


# ---------------------------------------------------------------- the loop


def test_timers_come_in_order(run: Where) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        order: list[int] = []
        done = asyncio.Event()
        for number in (3, 1, 2, 0, 4):
            loop.call_at(now + number * 0.002, order.append, number)
        cancelled = [loop.call_at(now + 0.005, order.append, -1) for _ in range(200)]
        for handle in cancelled:
            handle.cancel()
        loop.call_at(now + 0.01, done.set)
        await done.wait()
        assert order == [0, 1, 2, 3, 4]

    run(body)


def test_the_loop_knows_itself(run: Where) -> None:
    async def body() -> None:
        loop = running_loop()
        for _ in range(5):
            assert asyncio.get_running_loop() is loop
            assert asyncio.get_event_loop() is loop
            assert loop.is_running()
            assert holds(loop)
            task = asyncio.current_task()
            assert task in asyncio.all_tasks()
            time.sleep(0.0012)
            assert asyncio.current_task() is task
            with pytest.raises(RuntimeError, match="already running"):
                loop.run_forever()
            with pytest.raises(RuntimeError, match="Cannot close"):
                loop.close()
            with pytest.raises(RuntimeError, match="running event loop"):
                hybridexec.run(asyncio.sleep(0))
            await asyncio.sleep(0)

    with pytest.warns(RuntimeWarning, match="never awaited"):
        run(body)


def test_a_nested_loop_is_refused_as_asyncio_refuses_it(run: Where) -> None:
    async def body() -> None:
        coroutine = asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            asyncio.run(coroutine)
        coroutine.close()

    run(body)


def test_a_done_callback_runs_with_the_loop(run: Where) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        seen: list[bool] = []

        async def quick() -> None:
            time.sleep(0.0012)

        async def waits(future: Awaitable[Any]) -> None:
            await future

        task = asyncio.create_task(quick())
        task.add_done_callback(lambda task: seen.append(holds(loop)))
        await asyncio.gather(*(waits(task) for _ in range(5)))
        assert seen == [True]

    run(body)
