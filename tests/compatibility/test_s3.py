"""boto3 and aiobotocore in handlers, over TLS, on moto's S3."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from compatibility.drivers import ENDED, UVICORN, ask
from compatibility.service import Service, serving


@pytest.fixture(scope="session")
def s3(certificates: tuple[Path, Path]) -> Iterator[str]:
    """An S3 that is empty, by its URL."""
    own = str(certificates[0])
    command = ["-m", "moto.server", "--port", "{port}", "--ssl-cert", own, "--ssl-key", own]
    with serving(command, engine="") as server:
        yield f"https://localhost:{server.port}"


@pytest.fixture
def service(engine: str, s3: str, certificates: tuple[Path, Path]) -> Iterator[Service]:
    with serving([*UVICORN, "on_s3:app"], engine=engine, S3=s3, CERTIFICATE=str(certificates[1])) as service:
        yield service


@pytest.mark.compatibility("boto3", "waiters that another request lets go; an upload that blocks; a transfer's threads")
def test_boto3(service: Service) -> None:
    waiting = [f"waits?key={n}" for n in range(4)]
    answers = ask(service, *waiting, *[f"puts?key={n}&word={n}" for n in range(4)])
    assert answers == ["0", "1", "2", "3", *["put"] * 4]
    answers = ask(service, *[f"uploads?key=u{n}" for n in range(4)], *["brings?word=middle"] * 4)
    assert answers == [*["first middle last"] * 4, *["brought"] * 4]
    assert ask(service, *[f"fresh?key=f{n}" for n in range(4)], "in_parts?key=p", "in_parts?key=q") == [
        *["fresh"] * 4,
        *["True"] * 2,
    ]
    service.stop_well(status=ENDED[signal.SIGTERM])


@pytest.mark.compatibility("aiobotocore", "its waiters beside boto3's, each let go by the other one; Ctrl-C")
def test_aiobotocore(service: Service) -> None:
    answers = ask(
        service,
        *[f"awaits?key=a{n}" for n in range(4)],
        *[f"waits?key=s{n}" for n in range(4)],
        *[f"puts?key=a{n}&word=a{n}" for n in range(4)],
        *[f"aputs?key=s{n}&word=s{n}" for n in range(4)],
    )
    assert answers == ["a0", "a1", "a2", "a3", "s0", "s1", "s2", "s3", *["put"] * 8]
    service.stop_well(signal.SIGINT, status=ENDED[signal.SIGINT])
