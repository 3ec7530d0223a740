"""What the tests of drivers share: a uvicorn that serves one of ``apps/``, and what it is asked."""

from __future__ import annotations

import functools
import signal
import urllib.request

from compatibility.service import Service, together

UVICORN = ["-m", "uvicorn", "--port", "{port}", "--loop", "hybridexec:new_event_loop"]
ENDED = {signal.SIGTERM: (0, -signal.SIGTERM), signal.SIGINT: (0, 130, -signal.SIGINT)}


def get(service: Service, path: str) -> str:
    with urllib.request.urlopen(f"{service.url}/{path}", timeout=60) as response:
        body: str = response.read().decode()
        return body


def ask(service: Service, *paths: str) -> list[str]:
    """The answers to requests that are made at once."""
    return together(*[functools.partial(get, service, path) for path in paths])
