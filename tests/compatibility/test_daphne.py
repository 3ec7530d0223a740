"""daphne, on Twisted's reactor, which is laid over a loop of asyncio's and never closes it."""

from __future__ import annotations

import signal

import pytest

from compatibility.service import blocks_and_streams, serving, websockets_wait

RUN = ["-m", "hybridexec", "run", "-m", "daphne", "--bind", "127.0.0.1", "--port", "{port}", "bare:app"]


@pytest.mark.compatibility(
    "daphne", "handlers, streams and websockets that block; SIGTERM and Ctrl-C", needs="`hybridexec run -m daphne`"
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_handlers_block(engine: str, number: signal.Signals) -> None:
    with serving(RUN, engine=engine) as service:
        blocks_and_streams(service)
        websockets_wait(service)
        service.stop_well(number)
