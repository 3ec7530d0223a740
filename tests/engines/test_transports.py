"""Protocols that block: they are called once at a time and in order (rules 3 and 7), whatever becomes of the transport.

``Listener`` looks for itself that nobody calls it while one of its methods is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from helpers import fill, holds, pipe, running_loop
from test_readers import rests, until

import hybridexec
from hybridexec.protocol.record import RETURN_BOUND

pytestmark = pytest.mark.engine("selector", reason="uvloop calls protocols from within its poll, where nothing moves")


class Listener(asyncio.Protocol, asyncio.DatagramProtocol, asyncio.SubprocessProtocol):
    """A protocol of every kind, one method of which blocks when it is called first.

    Attributes:
        order: what was called, in order, and "back" behind what has blocked.
        received: all the data.
        away: whether it is blocked.
    """

    def __init__(self, blocks: str = "data_received", first: Callable[[Any], object] = lambda transport: None) -> None:
        self.blocks = blocks
        self.first = first
        self.order: list[str] = []
        self.received = b""
        self.transport: Any = None
        self.inside = self.away = False
        self.reader, self.writer = os.pipe()

    def tell(self, name: str, data: bytes = b"") -> None:
        """A method was called."""
        assert not self.inside
        self.order.append(name)
        self.received += data
        if name == self.blocks:
            self.blocks = ""
            self.first(self.transport)
            self.inside = self.away = True
            os.read(self.reader, 1)
            self.inside = self.away = False
            assert holds(running_loop())
            self.order.append("back")

    def release(self) -> None:
        """End the block."""
        os.write(self.writer, b"x")

    def __del__(self) -> None:
        os.close(self.reader)
        os.close(self.writer)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.tell("connection_made")

    def data_received(self, data: bytes) -> None:
        self.tell("data_received", data)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.tell("datagram_received", data)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.tell("pipe_data_received", data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self.tell("pipe_connection_lost")

    def process_exited(self) -> None:
        self.tell("process_exited")

    def eof_received(self) -> None:
        self.tell("eof_received")

    def pause_writing(self) -> None:
        self.order.append("pause_writing")  # whoever writes calls it, also while another method is away

    def resume_writing(self) -> None:
        self.tell("resume_writing")

    def connection_lost(self, exc: Exception | None) -> None:
        self.tell("connection_lost")


@contextlib.asynccontextmanager
async def connected(listener: Listener) -> AsyncIterator[tuple[Any, socket.socket]]:
    """A transport to which one byte was sent, and that is away for it; and the other end."""
    ours, theirs = socket.socketpair()
    with theirs:
        transport, _ = await running_loop().create_connection(lambda: listener, sock=ours)
        theirs.send(b"a")
        await until(lambda: listener.away)
        yield transport, theirs
        if listener.order[-1] != "connection_lost":
            transport.abort()
        await until(lambda: listener.order[-1] == "connection_lost")


async def still_away(listener: Listener) -> None:
    """Nothing more is told to a listener that is away, and polls rest."""
    order = list(listener.order)
    try:
        await rests(running_loop())
        assert listener.away
        assert listener.order == order
    except AssertionError:
        listener.release()  # or the loop could not end
        raise


def test_data_that_comes_meanwhile_is_received_afterwards() -> None:
    async def main() -> None:
        listener = Listener()
        async with connected(listener) as (_, theirs):
            theirs.send(b"b")
            await still_away(listener)
            theirs.send(b"c")
            assert listener.received == b"a"
            listener.release()
            await until(lambda: listener.received == b"abc")
        assert listener.order == ["connection_made", "data_received", "back", "data_received", "connection_lost"]

    hybridexec.run(main())


@pytest.mark.parametrize("itself", [False, True])
def test_who_resumes_reading_meanwhile_gets_nothing_before_it_is_back(itself: bool) -> None:
    async def main() -> None:
        listener = Listener(first=lambda transport: transport.pause_reading() if itself else None)
        async with connected(listener) as (transport, theirs):
            theirs.send(b"b")
            transport.pause_reading()
            await asyncio.sleep(0)
            transport.resume_reading()
            await still_away(listener)
            listener.release()
            await until(lambda: listener.received == b"ab")

    hybridexec.run(main())


@pytest.mark.parametrize("way", ["abort", "close", "close, with data to write", "eof"])
def test_a_connection_is_not_lost_before_it_is_back(way: str) -> None:
    async def main() -> None:
        listener = Listener()
        async with connected(listener) as (transport, theirs):
            sock = transport.get_extra_info("socket")
            match way:
                case "abort":
                    transport.abort()
                case "close":
                    transport.close()
                case "eof":
                    theirs.shutdown(socket.SHUT_WR)
                case _:
                    fill(sock.fileno())
                    transport.write(b"b")
                    transport.close()
                    while len(theirs.recv(1 << 20, socket.MSG_DONTWAIT)) < 2:
                        pass
                    with contextlib.suppress(BlockingIOError):
                        while theirs.recv(1 << 20, socket.MSG_DONTWAIT):
                            pass
            await still_away(listener)
            assert sock.fileno() >= 0
            listener.release()
            await until(lambda: listener.order[-1] == "connection_lost")
            assert sock.fileno() < 0
        lost = ["eof_received"] if way == "eof" else []
        assert listener.order == ["connection_made", "data_received", "back", *lost, "connection_lost"]

    hybridexec.run(main())


def test_writing_is_not_resumed_before_it_is_back() -> None:
    async def main() -> None:
        listener = Listener()
        async with connected(listener) as (transport, theirs):
            transport.set_write_buffer_limits(high=0)
            theirs.setblocking(False)
            fill(transport.get_extra_info("socket").fileno())
            transport.write(b"b")
            assert listener.order[-1] == "pause_writing"
            with contextlib.suppress(BlockingIOError):
                while theirs.recv(1 << 20):
                    pass
            await still_away(listener)
            listener.release()
            await until(lambda: listener.order[-1] == "resume_writing")
            assert listener.order[-2] == "back"

    hybridexec.run(main())


def test_a_connection_is_there_when_connection_made_is_back() -> None:
    async def main() -> None:
        listener = Listener("connection_made")
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.send(b"a")
            task = asyncio.create_task(running_loop().create_connection(lambda: listener, sock=ours))
            await until(lambda: listener.away)
            await still_away(listener)
            assert not task.done()
            listener.release()
            transport, _ = await task
            assert listener.order[:2] == ["connection_made", "back"]
            await until(lambda: listener.received)
            transport.abort()
            await until(lambda: listener.order[-1] == "connection_lost")

    hybridexec.run(main())


def test_a_process_is_there_when_connection_made_is_back() -> None:
    async def main() -> None:
        listener = Listener("connection_made")
        task = asyncio.create_task(running_loop().subprocess_exec(lambda: listener, "true", stderr=None))
        await until(lambda: listener.away)
        await still_away(listener)
        done = task.done()
        listener.release()
        assert not done
        transport, _ = await task
        assert listener.order[:2] == ["connection_made", "back"]
        await until(lambda: listener.order[-1] == "connection_lost")
        transport.close()

    hybridexec.run(main())


def test_a_process_is_not_there_before_connection_made_if_its_start_has_blocked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The start's call is over when ``connection_made`` is about to be scheduled, and has the loop before that runs."""
    get_pid = asyncio.unix_events._UnixSubprocessTransport.get_pid  # type: ignore[attr-defined]
    reader, writer = os.pipe()

    class Protocol(asyncio.SubprocessProtocol):
        looked = made = False

        @property
        def connection_made(self) -> Any:
            carrying = running_loop()._carrying
            with hybridexec.pinned():
                if not self.looked:
                    os.write(writer, b"x")
                    while not carrying.returning or time.monotonic() < carrying.returning[0].since + RETURN_BOUND:
                        time.sleep(0.001)
            self.looked = True
            return self.is_made

        def is_made(self, transport: asyncio.BaseTransport) -> None:
            self.made = True

    def blocks(transport: Any) -> int:
        if not transport.get_protocol().looked:
            os.read(reader, 1)
        return int(get_pid(transport))

    async def main() -> None:
        transport, protocol = await running_loop().subprocess_exec(Protocol, "true", stderr=None)
        assert protocol.made
        transport.close()

    monkeypatch.setattr("asyncio.unix_events._UnixSubprocessTransport.get_pid", blocks)
    hybridexec.run(main())
    os.close(reader)
    os.close(writer)


def test_other_connections_and_steps_of_the_program_go_on() -> None:
    async def main() -> None:
        listener, other = Listener(), Listener(blocks="")
        ours, theirs = socket.socketpair()
        async with connected(listener):
            with theirs:
                transport, _ = await running_loop().create_connection(lambda: other, sock=ours)
                theirs.send(b"b")
                await until(lambda: other.received)
                transport.close()
                await until(lambda: other.order[-1] == "connection_lost")
            assert listener.away
            running_loop().call_soon(listener.release)  # a method of the protocol, but none that asyncio calls
            await until(lambda: not listener.away)

    hybridexec.run(main())


def test_datagrams_are_received_one_after_the_other() -> None:
    async def main() -> None:
        listener = Listener("datagram_received")
        loop = running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: listener, local_addr=("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(transport.get_extra_info("sockname"))
            for data in (b"a", b"b"):
                sock.send(data)
            await until(lambda: listener.away)
            await still_away(listener)
            transport.close()
            await still_away(listener)
            listener.release()
            await until(lambda: listener.order[-1] == "connection_lost")
        assert listener.order == ["connection_made", "datagram_received", "back", "connection_lost"]

    hybridexec.run(main())


def test_a_pipe_ends_when_its_reader_is_back() -> None:
    async def main() -> None:
        listener = Listener()
        with pipe() as (reader, writer):
            await running_loop().connect_read_pipe(lambda: listener, os.fdopen(os.dup(reader), "rb", 0))
            os.write(writer, b"a")
            await until(lambda: listener.away)
            os.write(writer, b"b")
            os.close(writer)
            await still_away(listener)
            listener.release()
            await until(lambda: listener.order[-1] == "connection_lost")
        assert listener.received == b"ab"
        expected = ["connection_made", "data_received", "back", "data_received", "eof_received", "connection_lost"]
        assert listener.order == expected

    hybridexec.run(main())


def test_what_a_process_has_to_tell_comes_in_order() -> None:
    async def main() -> None:
        listener = Listener("pipe_data_received")
        program = "import sys; sys.stdout.write('a'); sys.stdout.flush(); sys.stdin.read(1); sys.stdout.write('b')"
        transport, _ = await running_loop().subprocess_exec(
            lambda: listener, sys.executable, "-c", program, stderr=None
        )
        await until(lambda: listener.away)
        stdin: Any = transport.get_pipe_transport(0)
        stdin.write(b"x")
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.kill(transport.get_pid(), 0)
                await asyncio.sleep(0.001)
        await still_away(listener)
        listener.release()
        await until(lambda: listener.order[-1] == "connection_lost")
        transport.close()
        assert listener.received == b"ab"
        assert listener.order[:3] == ["connection_made", "pipe_data_received", "back"]
        assert sorted(listener.order[3:-1]) == sorted(
            ["pipe_connection_lost", "pipe_connection_lost", "pipe_data_received", "process_exited"]
        )

    hybridexec.run(main())


def test_tls_keeps_the_order_too(certificates: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server_context, client_context = certificates

    async def main() -> None:
        listener = Listener()
        loop = running_loop()
        server = await loop.create_server(lambda: listener, "127.0.0.1", 0, ssl=server_context)
        async with server:
            _, writer = await asyncio.open_connection(
                *server.sockets[0].getsockname()[:2], ssl=client_context, server_hostname="localhost"
            )
            writer.write(b"a")
            await until(lambda: listener.away)
            writer.write(b"b")
            await still_away(listener)
            listener.transport.pause_reading()
            writer.write(b"c")
            await asyncio.sleep(0)
            listener.transport.resume_reading()
            writer.close()
            await still_away(listener)
            listener.release()
            await until(lambda: listener.order[-1] == "connection_lost")
        assert listener.received == b"abc"
        assert listener.order[:3] == ["connection_made", "data_received", "back"]
        assert listener.order[-2:] == ["eof_received", "connection_lost"]

    hybridexec.run(main())
