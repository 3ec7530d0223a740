"""hypercorn, which takes no loop by an option: served by a program, and by ``hybridexec run``."""

from __future__ import annotations

import asyncio
import signal

import httpx
import pytest

from compatibility.service import (
    LIMIT,
    Backend,
    answers_although_told_to_end,
    begin,
    blocks_and_streams,
    get,
    serving,
    together,
    websockets_wait,
)

SERVE = ["hypercorn_serve.py"]
RUN = ["-m", "hybridexec", "run", "-m", "hypercorn", "--bind", "127.0.0.1:{port}", "--access-logfile", "-"]
PROGRAM = "`hybridexec.run(hypercorn.asyncio.serve(app, config))`"
COMMAND = "`hybridexec run -m hypercorn`; `--worker-class` stays what it is"


@pytest.mark.compatibility(
    "hypercorn", "HTTP/1.1 handlers and streams that block; SIGTERM and Ctrl-C meanwhile", needs=PROGRAM
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_handlers_block(engine: str, backend: Backend, number: signal.Signals) -> None:
    with serving(SERVE, engine=engine, backend=backend) as service:
        blocks_and_streams(service)
        answers_although_told_to_end(service, backend, number)
        service.stop_well(None)


@pytest.mark.compatibility("hypercorn", "HTTP/2: streams of one connection that block side by side", needs=PROGRAM)
def test_http_2(engine: str) -> None:
    async def ask(url: str) -> list[tuple[str, str]]:
        async with httpx.AsyncClient(http1=False, http2=True, base_url=url, timeout=LIMIT) as client:
            await client.get("/inner")
            streams = [asyncio.create_task(client.get("/stream")) for _ in range(4)]
            for _ in streams:
                # On another connection: httpcore reads one under a lock, and whoever has it waits for the network
                # although the answer to another request has been read already.  That one then waits for good.
                await asyncio.to_thread(get, f"{url}/put/middle")
            return [(answer.text, answer.http_version) for answer in await asyncio.gather(*streams)]

    with serving(SERVE, engine=engine) as service:
        assert asyncio.run(ask(service.url)) == [("first middle last", "HTTP/2")] * 4
        service.stop_well()


@pytest.mark.compatibility("hypercorn", "websockets whose handlers block", needs=PROGRAM)
def test_websockets_block(engine: str) -> None:
    with serving(SERVE, engine=engine) as service:
        websockets_wait(service)
        service.stop_well()


@pytest.mark.compatibility("hypercorn", "its command with `--workers 2`; SIGTERM and Ctrl-C", needs=COMMAND)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers(engine: str, backend: Backend, number: signal.Signals) -> None:
    with serving([*RUN, "--workers", "2", "bare:app"], engine=engine, backend=backend) as service:
        assert together(*[lambda: get(f"{service.url}/outer")] * 8) == ["outer inner"] * 8
        answers = begin(*[lambda: get(f"{service.url}/backend")] * 4)
        backend.wait_for(4)
        service.send(number)
        backend.answer("at last")
        assert answers() == ["at last"] * 4
        service.stop_well(None)


@pytest.mark.compatibility("hypercorn", "its command with `--worker-class uvloop`", needs=COMMAND)
def test_its_uvloop_worker(engine: str) -> None:
    with serving([*RUN, "--worker-class", "uvloop", "bare:app"], engine=engine) as service:
        assert together(*[lambda: get(f"{service.url}/outer")] * 8) == ["outer inner"] * 8
        service.stop_well()
