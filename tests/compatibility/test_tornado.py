"""Tornado: its server, its client, websockets."""

from __future__ import annotations

import signal

import pytest

from compatibility.service import blocks_and_streams, get, serving, together, websockets_wait

RUN = "`hybridexec.run(...)`"
PROGRAM = ["with_tornado.py"]


@pytest.mark.compatibility(
    "tornado", "handlers, coroutines or not, and streams that block; its client; SIGTERM", needs=RUN
)
def test_handlers_block(engine: str) -> None:
    with serving(PROGRAM, engine=engine) as service:
        blocks_and_streams(service)
        assert together(*[lambda: get(f"{service.url}/plain")] * 4) == ["inner inner"] * 4
        assert together(*[lambda: get(f"{service.url}/client")] * 4) == ["first middle last, outer inner, put"] * 4
        service.stop_well()


@pytest.mark.compatibility("tornado", "websockets whose handlers block; Ctrl-C", needs=RUN)
def test_websockets_block(engine: str) -> None:
    with serving(PROGRAM, engine=engine) as service:
        websockets_wait(service)
        service.stop_well(signal.SIGINT)
