"""uvicorn, told of our loop by its own option."""

from __future__ import annotations

import signal
import urllib.request

import pytest

from compatibility.service import serving, together

UVICORN = ["-m", "uvicorn", "--port", "{port}", "--loop", "hybridexec:new_event_loop"]


def get(url: str) -> str:
    with urllib.request.urlopen(url) as response:
        body: str = response.read().decode()
        return body


@pytest.mark.compatibility("uvicorn", "handlers that block on another request; Ctrl-C")
def test_a_handler_waits_for_another_request(engine: str) -> None:
    with serving([*UVICORN, "calls_itself:app"], engine=engine) as service:
        assert together(*[lambda: get(f"{service.url}/outer")] * 8) == ["outer inner"] * 8
        service.stop_well(signal.SIGINT, status=(0, 130, -signal.SIGINT))
