"""gunicorn: with uvicorn's worker, and with its own one for ASGI."""

from __future__ import annotations

import signal

import pytest

from compatibility.service import (
    Backend,
    answers_although_told_to_end,
    block_each_worker,
    blocks_and_streams,
    get,
    serving,
    together,
    websockets_wait,
)

OPTIONS = ["-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--no-control-socket", "--worker-class"]
RUN = ["-m", "hybridexec", "run"]
SUBCLASS = 'a subclass with `CONFIG_KWARGS = {"loop": "hybridexec:new_event_loop"}`'

# on every loop: which signal has ended a worker; and gunicorn closes a socket that uvloop has closed
SAID = (r"\[WARNING\] Worker \(pid:\d+\) was sent SIGINT!", "Error while closing socket")


@pytest.mark.compatibility(
    "gunicorn", "`uvicorn_worker`: handlers and streams that block; SIGTERM and Ctrl-C meanwhile", needs=SUBCLASS
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_handlers_block(engine: str, backend: Backend, number: signal.Signals) -> None:
    with serving([*OPTIONS, "gunicorn_worker.Worker", "bare:app"], engine=engine, backend=backend) as service:
        blocks_and_streams(service)
        answers_although_told_to_end(service, backend, number)
        service.stop_well(None, but=SAID)


@pytest.mark.compatibility("gunicorn", "`uvicorn_worker`: websockets whose handlers block", needs=SUBCLASS)
def test_websockets_block(engine: str) -> None:
    with serving([*OPTIONS, "gunicorn_worker.Worker", "bare:app"], engine=engine) as service:
        websockets_wait(service)
        service.stop_well(but=SAID)


@pytest.mark.compatibility(
    "gunicorn",
    "`uvicorn_worker`, left as it is, and `--workers 2`; SIGTERM and Ctrl-C while handlers are blocked",
    needs="`hybridexec run -m gunicorn`",
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers(engine: str, backend: Backend, number: signal.Signals) -> None:
    command = [*RUN, *OPTIONS, "uvicorn_worker.UvicornWorker", "--workers", "2", "bare:app"]
    with serving(command, engine=engine, backend=backend) as service:
        assert together(*[lambda: get(f"{service.url}/outer")] * 8) == ["outer inner"] * 8
        answers = block_each_worker(service, backend, 2)
        service.send(number)
        service.wait_until_it_refuses()
        backend.answer("at last")
        assert set(answers()) == {"at last"}
        service.stop_well(None, but=SAID)


@pytest.mark.compatibility(
    "gunicorn",
    "`--worker-class asgi`, its own: handlers, streams and websockets that block; SIGTERM meanwhile",
    needs="`hybridexec run -m gunicorn`",
)
def test_its_own_worker(engine: str, backend: Backend) -> None:
    with serving([*RUN, *OPTIONS, "asgi", "bare:app"], engine=engine, backend=backend) as service:
        blocks_and_streams(service)
        websockets_wait(service)
        answers_although_told_to_end(service, backend, signal.SIGTERM)
        service.stop_well(None, but=SAID)
