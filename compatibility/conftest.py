"""What these tests share: the engines, and what a test says about itself."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Say what the mark means."""
    config.addinivalue_line(
        "markers",
        "compatibility(library, what, needs=''): a row of docs/compatibility.md: the distribution's name, what the "
        "test shows, and what a user has to set for it",
    )


@pytest.fixture(params=["selector", "uvloop"])
def engine(request: pytest.FixtureRequest) -> str:
    """The engine that the service runs on."""
    name: str = request.param
    return name
