"""What these tests share: the engines, and what a test says about itself."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from compatibility.daemons import postgresql, redis_server
from compatibility.service import Backend

ENGINES = ("selector", "uvloop")
__all__ = ["postgresql", "redis_server"]


def pytest_configure(config: pytest.Config) -> None:
    """Say what the mark means; and Ctrl-C is what it always is."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for what it starts in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers",
        "compatibility(library, what, needs='', runtime=False): a row of docs/compatibility.md: the distribution's "
        "name, what the test shows, what a user has to set for it, and whether it is in the table of foreign runtimes",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have each test's reports say which row it is, from whichever process they come."""
    for place, item in enumerate(items):
        mark = item.get_closest_marker("compatibility")
        if mark is None:
            raise pytest.UsageError(f"{item.nodeid} has no mark 'compatibility'")
        engine = next((engine for engine in ENGINES if engine in item.name), "")
        row = [place, *mark.args, mark.kwargs.get("needs", ""), mark.kwargs.get("runtime", False), engine]
        item.user_properties.append(("row", row))


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The engine that the service runs on."""
    name: str = request.param
    return name


@pytest.fixture
def backend() -> Iterator[Backend]:
    """What handlers ask."""
    backend = Backend()
    yield backend
    backend.close()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost with its key, and who has signed it."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "own")
    authority.cert_pem.write_to_path(folder / "authority")
    return folder / "own", folder / "authority"
