"""aiohttp: its server, by ``web.run_app`` and by ``web.AppRunner``, and its client."""

from __future__ import annotations

import signal

import pytest

from compatibility.service import Backend, begin, blocks_and_streams, get, serving, together, websockets_wait

RUN_APP = "`web.run_app(app, loop=hybridexec.new_event_loop())`"
RUNNER = "`hybridexec.run(...)`"


@pytest.mark.compatibility(
    "aiohttp", "handlers, middlewares and streams that block; SIGTERM and Ctrl-C meanwhile", needs=RUN_APP
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_handlers_block(engine: str, backend: Backend, number: signal.Signals) -> None:
    with serving(["with_aiohttp.py"], engine=engine, backend=backend) as service:
        blocks_and_streams(service)
        answers = begin(*[lambda: get(f"{service.url}/backend")] * 8)
        backend.wait_for(8)
        service.send(number)
        # run_app ends by an exception, which comes out of the loop when the home's own blocking call is over
        backend.answer("at last")
        assert answers() == ["at last"] * 8
        service.stop_well(None)


@pytest.mark.compatibility("aiohttp", "`web.AppRunner`; its client beside handlers that block; SIGTERM", needs=RUNNER)
def test_client(engine: str) -> None:
    with serving(["with_aiohttp.py", "runner"], engine=engine) as service:
        answers = together(*[lambda: get(f"{service.url}/client")] * 4)
        assert answers == ["first middle last, outer inner, put"] * 4
        service.stop_well()


@pytest.mark.compatibility("aiohttp", "websockets whose handlers block", needs=RUN_APP)
def test_websockets_block(engine: str) -> None:
    with serving(["with_aiohttp.py"], engine=engine) as service:
        websockets_wait(service)
        service.stop_well()
