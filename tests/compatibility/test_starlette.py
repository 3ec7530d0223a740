"""Starlette and FastAPI, under uvicorn."""

from __future__ import annotations

import json
import signal
import time
import urllib.request

import pytest
from websockets.sync.client import connect

from compatibility.service import LIMIT, Backend, Service, begin, get, serving, together
from compatibility.test_uvicorn import INTERRUPTED, TERMINATED, UVICORN

WORKER = "AnyIO worker thread"


def get_when(url: str, wanted: str) -> None:
    """Ask until the answer is what is wanted."""
    until = time.monotonic() + LIMIT
    while (answer := get(url)) != wanted:
        assert time.monotonic() < until, answer


def websockets_wait_for(service: Service) -> None:
    """Two websockets' handlers are blocked until a request releases them."""
    url = f"ws://127.0.0.1:{service.port}/websocket"
    with connect(url) as one, connect(url) as other:
        one.send("1")
        other.send("2")
        get(f"{service.url}/put/x")
        get(f"{service.url}/put/x")
        assert [one.recv(LIMIT), other.recv(LIMIT)] in (["1 x inner", "2 x inner"], ["1 x", "2 x"])


@pytest.mark.compatibility("starlette", "endpoints and `BaseHTTPMiddleware` that block")
def test_middleware_blocks(engine: str) -> None:
    def ask() -> tuple[str, str]:
        with urllib.request.urlopen(f"{service.url}/outer", timeout=LIMIT) as response:
            return response.read().decode(), response.headers["said"]

    with serving([*UVICORN, "with_starlette:app"], engine=engine) as service:
        assert together(*[ask] * 4) == [("outer inner", "inner inner")] * 4
        service.stop_well(signal.SIGINT, status=INTERRUPTED)


@pytest.mark.compatibility(
    "starlette", "`StreamingResponse` of an async generator that blocks, and of a plain one (in anyio's threads)"
)
def test_streams_block(engine: str) -> None:
    with serving([*UVICORN, "with_starlette:app"], engine=engine) as service:
        paths = ["stream", "synchronous_stream"] * 2
        answers = begin(*[lambda path=path: get(f"{service.url}/{path}") for path in paths])
        for _ in paths:
            get(f"{service.url}/put/middle")
        assert answers() == ["first middle inner"] * 4
        service.stop_well(status=TERMINATED)


@pytest.mark.compatibility(
    "starlette", "background tasks that block, also while it ends; `def` stays in anyio's threads"
)
def test_background_tasks_block(engine: str, backend: Backend) -> None:
    with serving([*UVICORN, "with_starlette:app"], engine=engine, backend=backend) as service:
        taken = begin(lambda: get(f"{service.url}/in_a_thread"))
        get(f"{service.url}/put/word")
        assert taken() == [f"{WORKER}: word"]
        assert get(f"{service.url}/background") == "soon"
        get(f"{service.url}/put/first")
        get(f"{service.url}/put/second")
        get_when(f"{service.url}/done", f"first,{WORKER}: second")
        assert get(f"{service.url}/ask_in_background") == "soon"
        backend.wait_for(1)
        service.send(signal.SIGTERM)
        service.wait_until_it_says("Shutting down")
        backend.answer("its answer")
        service.stop_well(None, status=TERMINATED)
        assert "the background task got its answer" in service.said()


@pytest.mark.compatibility("starlette", "websockets whose endpoints block")
def test_websockets_block(engine: str) -> None:
    with serving([*UVICORN, "with_starlette:app"], engine=engine) as service:
        websockets_wait_for(service)
        service.stop_well(status=TERMINATED)


@pytest.mark.compatibility(
    "fastapi", "`async def` endpoints and dependencies that block; `def` ones stay in anyio's threads"
)
def test_endpoints_and_dependencies_block(engine: str) -> None:
    with serving([*UVICORN, "with_fastapi:app"], engine=engine) as service:
        answers = begin(*[lambda: json.loads(get(f"{service.url}/depends"))] * 3)
        # what comes after an answer puts something on the shelf, and these take it
        taken = begin(*[lambda: json.loads(get(f"{service.url}/take"))] * 3)
        taken_in_threads = begin(*[lambda: json.loads(get(f"{service.url}/take_in_a_thread"))] * 3)
        assert answers() == [['"inner"', WORKER, '"inner"']] * 3
        assert taken() == ["after"] * 3
        assert taken_in_threads() == [[WORKER, "after"]] * 3
        service.stop_well(signal.SIGINT, status=INTERRUPTED)


@pytest.mark.compatibility("fastapi", "websockets and background tasks that block")
def test_websockets_and_background_tasks_block(engine: str) -> None:
    with serving([*UVICORN, "with_fastapi:app"], engine=engine) as service:
        websockets_wait_for(service)
        assert get(f"{service.url}/background") == '"soon"'
        get(f"{service.url}/put/word")
        get_when(f"{service.url}/kept", '["word"]')
        service.stop_well(status=TERMINATED)
