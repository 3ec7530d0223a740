"""HTTP clients in handlers, over TLS to the handlers' own service."""

from __future__ import annotations

import functools
import signal
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from compatibility.drivers import ENDED, UVICORN
from compatibility.service import Service, serving, together


@pytest.fixture
def service(engine: str, certificates: tuple[Path, Path]) -> Iterator[Service]:
    """The service, over TLS."""
    own, authority = certificates
    command = [*UVICORN, "--ssl-certfile", str(own), "over_tls:app"]
    with serving(command, engine=engine, CERTIFICATE=str(authority)) as service:
        yield service


def ask(service: Service, certificates: tuple[Path, Path], *paths: str) -> list[str]:
    """The answers to requests that are made at once."""
    trusting = ssl.create_default_context(cafile=certificates[1])

    def get(path: str) -> str:
        url = f"https://localhost:{service.port}/{path}"
        with urllib.request.urlopen(url, timeout=60, context=trusting) as response:
            body: str = response.read().decode()
            return body

    return together(*[functools.partial(get, path) for path in paths])


@pytest.mark.compatibility("requests", "over TLS, from handlers to their own service; a session that handlers share")
def test_requests(service: Service, certificates: tuple[Path, Path]) -> None:
    assert ask(service, certificates, *["by_requests"] * 4) == ["inner"] * 4
    assert ask(service, certificates, *["by_session"] * 8) == ["inner"] * 8
    assert ask(service, certificates, "closes") == ["closed"]
    service.stop_well(status=ENDED[signal.SIGTERM])


@pytest.mark.compatibility("urllib3", "over TLS; a pool that blocks while all of its connections are used")
def test_urllib3(service: Service, certificates: tuple[Path, Path]) -> None:
    assert ask(service, certificates, "inner", *["by_urllib3"] * 8) == ["inner"] * 9
    assert ask(service, certificates, "closes") == ["closed"]
    service.stop_well(signal.SIGINT, status=ENDED[signal.SIGINT])


@pytest.mark.compatibility("httpx", "sync and async clients side by side, over TLS")
def test_httpx(service: Service, certificates: tuple[Path, Path]) -> None:
    assert ask(service, certificates, "inner", *["by_httpx"] * 8, *["by_httpx_async"] * 8) == ["inner"] * 17
    assert ask(service, certificates, "closes") == ["closed"]
    service.stop_well(status=ENDED[signal.SIGTERM])


@pytest.mark.compatibility("aiohttp", "its client over TLS, beside handlers that block")
def test_aiohttp(service: Service, certificates: tuple[Path, Path]) -> None:
    assert ask(service, certificates, "inner", *["by_session"] * 4, *["by_aiohttp"] * 8) == ["inner"] * 13
    assert ask(service, certificates, "closes") == ["closed"]
    service.stop_well(signal.SIGINT, status=ENDED[signal.SIGINT])
