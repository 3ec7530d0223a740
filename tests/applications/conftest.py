"""What these tests share: all of them are the hunt's, and most ask the fixtures of ``compatibility/``."""

from __future__ import annotations

import signal

import pytest
from compatibility.conftest import backend, engine
from compatibility.daemons import postgresql, redis_server

__all__ = ["backend", "engine", "postgresql", "redis_server"]


def pytest_configure() -> None:
    """Ctrl-C is what it always is, in what the tests start, too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for what it starts in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave them out wherever the hunt is left out."""
    for item in items:
        item.add_marker(pytest.mark.hunt)
