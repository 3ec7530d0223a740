"""granian, which calls its loop from Rust: served by a program, and by ``hybridexec run``."""

from __future__ import annotations

import signal

import pytest

from compatibility.service import (
    Backend,
    answers_although_told_to_end,
    begin,
    block_each_worker,
    blocks_and_streams,
    get,
    serving,
    together,
    websockets_wait,
)

SERVE = ["granian_serve.py"]
RUN = ["-m", "hybridexec", "run", "-m", "granian", "--interface", "asgi", "--loop", "asyncio", "--port", "{port}"]
PROGRAM = '`@granian.loops.register("auto")` over a function that makes the loop'
# granian forks its second worker when a thread watches the first, on every loop
FORKS = ("This process .* is multi-threaded",)
COMMAND = "`hybridexec run -m granian --loop asyncio`"


@pytest.mark.compatibility("granian", "handlers and streams that block; SIGTERM and Ctrl-C meanwhile", needs=PROGRAM)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_handlers_block(engine: str, backend: Backend, number: signal.Signals) -> None:
    with serving(SERVE, engine=engine, backend=backend) as service:
        blocks_and_streams(service)
        answers_although_told_to_end(service, backend, number)
        service.stop_well(None)


@pytest.mark.compatibility("granian", "websockets whose handlers block; a start and an end that block", needs=PROGRAM)
def test_websockets_and_lifespan_block(engine: str, backend: Backend) -> None:
    def lifespan() -> None:
        backend.wait_for(1)
        backend.answer("go on")

    started = begin(lifespan)
    with serving(SERVE, engine=engine, backend=backend, BLOCKS_IN_LIFESPAN="1") as service:
        started()
        websockets_wait(service)
        ended = begin(lifespan)
        service.stop_well()
        ended()


@pytest.mark.compatibility(
    "granian", "its command with `--workers 2`; SIGTERM and Ctrl-C while handlers are blocked", needs=COMMAND
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers(engine: str, backend: Backend, number: signal.Signals) -> None:
    with serving([*RUN, "--workers", "2", "bare:app"], engine=engine, backend=backend) as service:
        assert together(*[lambda: get(f"{service.url}/outer")] * 8) == ["outer inner"] * 8
        answers = block_each_worker(service, backend, 2)
        service.send(number)
        backend.answer("at last")
        assert set(answers()) == {"at last"}
        service.stop_well(None, but=FORKS)
