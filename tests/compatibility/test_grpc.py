"""gRPC's asyncio server and client, and its sync client in the server's handlers."""

from __future__ import annotations

import contextlib
import functools
import signal
from collections.abc import Iterator

import grpc
import pytest

from compatibility.service import LIMIT, Backend, Service, begin, serving, together

PROGRAM = ["with_grpc.py"]
RUN = "`hybridexec.run(...)`"


class Asking:
    """A sync client of the service."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def one(self, name: str, request: bytes = b"") -> str:
        """One request, one answer."""
        answer: bytes = self._channel.unary_unary(f"/service/{name}")(request, timeout=LIMIT)
        return answer.decode()

    def forever(self) -> grpc.Future:
        """What has to be cancelled."""
        return self._channel.unary_unary("/service/forever").future(b"")

    def stream(self) -> str:
        """One request, many answers."""
        return b" ".join(self._channel.unary_stream("/service/stream")(b"", timeout=LIMIT)).decode()

    def gather(self, *requests: bytes) -> str:
        """Many requests, one answer."""
        answer: bytes = self._channel.stream_unary("/service/gather")(iter(requests), timeout=LIMIT)
        return answer.decode()

    def converse(self, *requests: bytes) -> str:
        """Many requests, many answers."""
        return b" ".join(self._channel.stream_stream("/service/converse")(iter(requests), timeout=LIMIT)).decode()


@contextlib.contextmanager
def asking(service: Service) -> Iterator[Asking]:
    with grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        yield Asking(channel)


@pytest.mark.compatibility(
    "grpcio", "asyncio server: unary handlers that block, also in the sync client; SIGTERM, Ctrl-C meanwhile", needs=RUN
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_handlers_block(engine: str, backend: Backend, number: signal.Signals) -> None:
    with serving(PROGRAM, engine=engine, backend=backend) as service, asking(service) as ask:
        assert together(*[functools.partial(ask.one, "outer")] * 8) == ["outer inner"] * 8
        answers = begin(*[functools.partial(ask.one, "backend")] * 8)
        backend.wait_for(8)
        service.send(number)
        service.wait_until_it_says("ending")
        backend.answer("at last")
        assert answers() == ["at last"] * 8
        service.stop_well(None)


@pytest.mark.compatibility("grpcio", "asyncio server: streams to and fro that block; a client that cancels", needs=RUN)
def test_streams_block(engine: str, backend: Backend) -> None:
    with serving(PROGRAM, engine=engine, backend=backend) as service, asking(service) as ask:
        requests = b"1", b"2", b"3"
        answers = begin(
            *[ask.stream] * 3,
            *[functools.partial(ask.gather, *requests)] * 3,
            *[functools.partial(ask.converse, *requests)] * 3,
        )
        for _ in range(3 + 9 + 9):
            assert ask.one("put", b"x") == "put"
        assert answers() == [*["first x last"] * 3, *["1x 2x 3x"] * 6]
        call = ask.forever()
        backend.wait_for(1)
        call.cancel()
        backend.answer("answered")
        service.wait_until_it_says("answered\ncancelled\n")
        service.stop_well()


@pytest.mark.compatibility("grpcio", "asyncio client beside handlers that block; Ctrl-C", needs=RUN)
def test_client(engine: str) -> None:
    with serving(PROGRAM, engine=engine) as service, asking(service) as ask:
        answers = together(*[functools.partial(ask.one, "client")] * 4)
        assert answers == ["first middle last, outer inner, put"] * 4
        service.stop_well(signal.SIGINT)
