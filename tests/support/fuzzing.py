"""A fuzzer of transports: what a server does with one connection, told as a story that two loops have to share.

A client sends commands of one byte each, and the server's protocol executes them, wherever in its methods they say:
writes of all kinds and sizes, pauses, changes of the protocol, ends of all kinds, errors, blocks.  How the bytes are
cut into reads and when a socket is full is chance; so the story leaves that out.
"""

from __future__ import annotations

import asyncio
import collections
import enum
import hashlib
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 60.0
SIZES = (1, 2, 100, 4096, 5000, 65_536, 65_537, 300_000, 1_500_000)
SMALL = SIZES[:5]
"""What always fits into a socket's buffers: so it arrives, whatever becomes of the connection."""


class Kind(enum.Enum):
    """What carries the bytes."""

    UNIX = "unix"
    TCP = "tcp"
    TLS = "tls"


class Does(enum.Enum):
    """A command."""

    WRITE = b"w"
    WRITE_VIEW = b"v"
    WRITE_ARRAY = b"y"
    WRITE_LINES = b"l"
    GO_ON_LATER = b"t"
    WRITE_NOTHING = b"n"
    WRITE_WHAT_IS_NO_BYTES = b"x"
    ASK = b"g"
    PAUSE = b"p"
    LIMIT = b"h"
    SWAP = b"s"
    BLOCK = b"b"
    BLOCK_AFTER_WRITE = b"B"
    END_OF_FILE = b"e"
    CLOSE = b"c"
    WRITE_AND_CLOSE = b"C"
    ABORT = b"a"
    RAISE = b"r"
    RAISE_WHEN_LOST = b"R"


ENDS = (Does.END_OF_FILE, Does.CLOSE, Does.WRITE_AND_CLOSE, Does.ABORT, Does.RAISE)
DROP = (Does.ABORT, Does.RAISE)
"""They drop what could not be sent yet."""


@dataclass
class Script:
    """One connection: commands with an argument each; the last one may end it, else the client does.

    Attributes:
        buffered: whether the protocol is a BufferedProtocol at first.
        whole: how many commands the client sends at once.
    """

    kind: Kind
    buffered: bool
    commands: list[tuple[Does, int]]
    whole: int

    @classmethod
    def made(cls, seed: int, kind: Kind) -> Script:
        """The script of a seed."""
        chance = random.Random(f"{seed} {kind.value}")
        ends: list[Does | None] = [*ENDS, None]
        if kind is Kind.TLS:  # which has no half that could be closed
            ends.remove(Does.END_OF_FILE)
            ends.remove(None)
        end = chance.choice(ends)
        defers = (Does.GO_ON_LATER, Does.PAUSE)
        sizes = SMALL if end in DROP else SIZES
        middle = [does for does in Does if does not in ENDS]
        commands = [(chance.choice(middle), chance.choice(sizes)) for _ in range(chance.randrange(1, 9))]
        if end in DROP:
            del commands[4:]  # so that all they write is small
        if any(does in defers for does, _ in commands):
            # Else the client may end it before the commands have; and in which step the last one comes is chance.
            end = {None: Does.CLOSE, Does.RAISE: Does.ABORT}.get(end, end)
        if end is not None:
            commands.append((end, chance.choice(sizes)))
        return cls(kind, chance.random() < 0.5, commands, chance.randrange(1, len(commands) + 1))


@dataclass
class Story:
    """What has happened, as far as it is not chance."""

    events: list[str] = field(default_factory=list)
    reported: list[str] = field(default_factory=list)
    received: str = ""
    client: str = ""


class Fuzzed(asyncio.Protocol):
    """The server's protocol, which executes the commands that come in."""

    def __init__(self, script: Script, story: Story, lost: asyncio.Future[None]) -> None:
        self.script = script
        self.story = story
        self.lost = lost
        self.number = 0
        self.waiting: collections.deque[Does] = collections.deque()
        self.is_deferred = False
        self.raises_when_lost = False
        self.transport: Any = None
        self.chance = random.Random(7)

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport
        self.story.events.append("made")

    def data_received(self, data: bytes) -> None:
        """Execute commands."""
        self.waiting.extend(Does(bytes([byte])) for byte in data)
        self.go_on()

    def go_on(self) -> None:
        """Execute what has come in, up to a command that defers the rest."""
        while self.waiting and not self.is_deferred:
            self.execute(self.waiting.popleft())

    def go_on_later(self) -> None:
        """In a step of its own."""
        self.is_deferred = False
        if not self.transport.is_reading():
            self.transport.resume_reading()
        self.go_on()

    def eof_received(self) -> None:
        """The client sends nothing more; the transport closes."""
        self.story.events.append("eof")

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is over."""
        self.story.events.append(f"lost: {type(exc).__name__}")
        self.lost.get_loop().call_soon(self.lost.set_result, None)
        if self.raises_when_lost:
            raise LookupError("when lost")

    def execute(self, does: Does) -> None:
        """Execute the next command."""
        expected, size = self.script.commands[self.number]
        assert does is expected, (does, expected)
        self.number += 1
        self.story.events.append(does.name)
        data = self.chance.randbytes(size)
        transport = self.transport
        match does:
            case Does.WRITE:
                transport.write(data)
            case Does.WRITE_VIEW:
                transport.write(memoryview(data))
            case Does.WRITE_ARRAY:
                transport.write(bytearray(data))
            case Does.WRITE_LINES:
                transport.writelines([data[: size // 2], b"", bytearray(data[size // 2 :])])
            case Does.GO_ON_LATER:
                transport.write(data)
                self.defer()
            case Does.WRITE_NOTHING:
                transport.write(b"")
            case Does.WRITE_WHAT_IS_NO_BYTES:
                self.refused(lambda: transport.write("text"))
            case Does.ASK:
                self.story.events.append(f"{transport.is_closing()} {transport.get_write_buffer_size() >= 0}")
            case Does.PAUSE:
                transport.pause_reading()
                self.defer()
            case Does.LIMIT:
                transport.set_write_buffer_limits(high=size)
            case Does.SWAP:
                self.swap()
            case Does.BLOCK:
                time.sleep(0.002)
            case Does.BLOCK_AFTER_WRITE:
                transport.write(data)
                time.sleep(0.002)
            case Does.RAISE_WHEN_LOST:
                self.raises_when_lost = True
            case Does.RAISE:
                raise ValueError("in data_received")
            case _:
                self.end(does, data)

    def end(self, does: Does, data: bytes) -> None:
        """Execute a command that ends the connection."""
        transport = self.transport
        if does is Does.WRITE_AND_CLOSE:
            transport.write(data)
        match does:
            case Does.END_OF_FILE:
                transport.write_eof()
                self.refused(lambda: transport.write(b"behind the end"))
                transport.write_eof()
            case Does.ABORT:
                transport.abort()
            case _:
                transport.close()
                transport.close()
        self.story.events.append(f"closing: {transport.is_closing()}")

    def refused(self, call: Callable[[], object]) -> None:
        """Tell what a call raises."""
        try:
            call()
        except Exception as exc:
            self.story.events.append(f"refused: {type(exc).__name__}")

    def defer(self) -> None:
        """Have the other commands executed later."""
        self.is_deferred = True
        self.lost.get_loop().call_soon(self.go_on_later)

    def swap(self) -> None:
        """Put another protocol in this one's place."""
        other = Buffered if type(self) is Fuzzed else Fuzzed
        made = other(self.script, self.story, self.lost)
        made.__dict__.update(self.__dict__)
        self.__dict__ = made.__dict__  # what is left of the read that is under way is executed by this one
        self.transport.set_protocol(made)


class Buffered(Fuzzed, asyncio.BufferedProtocol):
    """The same as a BufferedProtocol."""

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to."""
        self.buffer = bytearray(3)
        return memoryview(self.buffer)  # asyncio's TLS takes slices of it

    def buffer_updated(self, nbytes: int) -> None:
        """Execute commands."""
        self.data_received(bytes(self.buffer[:nbytes]))


def play(script: Script, new_loop: Callable[[], Any], tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> Story:
    """Play a script on a loop.

    Args:
        script: what to do.
        new_loop: makes the loop.
        tls: a server's context, and a client's.
    """
    story = Story()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: story.reported.append(_told(context)))
        lost = loop.create_future()
        make = Buffered if script.buffered else Fuzzed
        ours, theirs = _pair(script.kind)
        context = tls[0] if script.kind is Kind.TLS else None
        client = threading.Thread(target=_client, args=(theirs, script, story, tls[1]))
        client.start()
        try:
            await loop.connect_accepted_socket(lambda: make(script, story, lost), ours, ssl=context)
            await asyncio.wait_for(lost, PATIENCE)
        finally:
            while client.is_alive():
                await asyncio.sleep(0.001)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
    return story


def _told(context: dict[str, Any]) -> str:
    exception = context.get("exception")
    return f"{context['message'].split(' handle')[0].split(' callback')[0]}: {type(exception).__name__}"


def _pair(kind: Kind) -> tuple[socket.socket, socket.socket]:
    if kind is not Kind.TCP:
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            theirs = socket.create_connection(server.getsockname())
            ours, _ = server.accept()
    ours.setblocking(False)
    theirs.settimeout(PATIENCE)
    return ours, theirs


def _client(theirs: socket.socket, script: Script, story: Story, context: ssl.SSLContext) -> None:
    """Send the commands, and receive to the end."""
    digest, count = hashlib.sha256(), 0
    try:
        with context.wrap_socket(theirs, server_hostname="localhost") if script.kind is Kind.TLS else theirs as client:
            commands = b"".join(does.value for does, _ in script.commands)
            for begin in range(0, len(commands), script.whole):
                client.sendall(commands[begin : begin + script.whole])
            if script.commands[-1][0] not in ENDS:
                client.shutdown(socket.SHUT_WR)
            while data := client.recv(1 << 16):
                digest.update(data)
                count += len(data)
    except OSError as exc:
        story.client = type(exc).__name__
    story.received = f"{count} {digest.hexdigest()[:16]}"
