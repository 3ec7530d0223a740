"""uvicorn, told of our loop by its own option."""

from __future__ import annotations

import signal

import pytest
from websockets.sync.client import connect

from compatibility.service import Backend, begin, get, serving, together, websockets_wait

LOOP = ["--port", "{port}", "--loop", "hybridexec:new_event_loop"]
UVICORN = ["-m", "uvicorn", *LOOP]
NEEDS = "`--loop hybridexec:new_event_loop`, or `hybridexec serve`"

# uvicorn raises the signal that has ended it once more, and catches the KeyboardInterrupt
TERMINATED = (-signal.SIGTERM,)
INTERRUPTED = (0,)


@pytest.mark.compatibility("uvicorn", "HTTP/1.1, handlers that block on another request; Ctrl-C", needs=NEEDS)
@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_handlers_wait_for_other_requests(engine: str, http: str) -> None:
    with serving([*UVICORN, "--http", http, "bare:app"], engine=engine) as service:
        assert together(*[lambda: get(f"{service.url}/outer")] * 8) == ["outer inner"] * 8
        service.stop_well(signal.SIGINT, status=INTERRUPTED)


@pytest.mark.compatibility("uvicorn", "streams whose async generator blocks between two parts", needs=NEEDS)
def test_streams_block_between_two_parts(engine: str) -> None:
    with serving([*UVICORN, "bare:app"], engine=engine) as service:
        answers = begin(*[lambda: get(f"{service.url}/stream")] * 4)
        for _ in range(4):
            get(f"{service.url}/put/middle")
        assert answers() == ["first middle last"] * 4
        service.stop_well(status=TERMINATED)


@pytest.mark.compatibility("uvicorn", "websockets (by `websockets` and by `wsproto`) whose handlers block", needs=NEEDS)
@pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto"])
def test_websockets_block(engine: str, backend: Backend, ws: str) -> None:
    with serving([*UVICORN, "--ws", ws, "bare:app"], engine=engine, backend=backend) as service:
        websockets_wait(service)
        with connect(f"ws://127.0.0.1:{service.port}/") as asking, connect(f"ws://127.0.0.1:{service.port}/"):
            asking.send("backend")
            backend.wait_for(1)
            service.send(signal.SIGTERM)  # with one that is blocked, and one that is open
            service.wait_until_it_says("Shutting down")
            backend.answer("too late")
            service.stop_well(None, status=TERMINATED)


@pytest.mark.compatibility("uvicorn", "SIGTERM and Ctrl-C while handlers are blocked; they still answer", needs=NEEDS)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, TERMINATED), (signal.SIGINT, INTERRUPTED)])
def test_it_ends_when_the_blocked_have_answered(
    engine: str, backend: Backend, number: signal.Signals, status: tuple[int, ...]
) -> None:
    with serving([*UVICORN, "bare:app"], engine=engine, backend=backend) as service:
        answers = begin(*[lambda: get(f"{service.url}/backend")] * 8)
        backend.wait_for(8)
        service.send(number)
        service.wait_until_it_says("Shutting down")
        backend.answer("at last")
        assert answers() == ["at last"] * 8
        service.stop_well(None, status=status)


@pytest.mark.compatibility("uvicorn", "a start and an end (lifespan) that block", needs=NEEDS)
def test_lifespan_blocks(engine: str, backend: Backend) -> None:
    def lifespan() -> None:
        backend.wait_for(1)
        backend.answer("go on")

    started = begin(lifespan)
    with serving([*UVICORN, "bare:app"], engine=engine, backend=backend, BLOCKS_IN_LIFESPAN="1") as service:
        started()
        assert get(f"{service.url}/outer") == "outer inner"
        ended = begin(lifespan)
        service.stop_well(status=TERMINATED)
        ended()
