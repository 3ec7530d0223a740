"""What all tests share.  Every test has a time limit (pyproject.toml), and leaves no LWP behind.

``pytest --engine uvloop`` runs them all on another engine, in the programs that they start, too.
"""

from __future__ import annotations

import os
import signal
import ssl
import sys
import threading
from collections.abc import Iterator

import pytest
import trustme
from helpers import pipe

import hybridexec
from hybridexec import HybridLoop
from hybridexec.observing.log import Trouble
from hybridexec.reactions import reporting


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are CPUs: most tests wait for something."""
    return (os.cpu_count() or 1) + 1


def pytest_addoption(parser: pytest.Parser) -> None:
    """The engine."""
    parser.addoption("--engine", choices=("native", "selector", "uvloop"), help="the engine to run the tests on")
    parser.addoption("--hunt", action="store_true", help="also what takes long")


def pytest_configure(config: pytest.Config) -> None:
    """Every loop that no engine is given for takes the one of the environment; Ctrl-C is what it always is."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for what it starts in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    chosen = config.getoption("--engine")
    if chosen is not None:
        os.environ["HYBRIDEXEC_ENGINE"] = chosen


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is about another engine or cannot be under sanitizers, and leave to the hunt what is its."""
    if not config.getoption("--hunt"):
        left = [item for item in items if item.get_closest_marker("hunt")]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]
    sanitized = "libasan" in os.environ.get("LD_PRELOAD", "")
    for item in items:
        mark = item.get_closest_marker("unsanitized")
        if sanitized and mark is not None:
            item.add_marker(pytest.mark.skip(mark.kwargs["reason"]))
        mark = item.get_closest_marker("engine")
        engine = config.getoption("--engine") or "native"
        # What the selector engine promises, the native engine does.
        if mark is not None and mark.args[0] != ("selector" if engine == "native" else engine):
            item.add_marker(pytest.mark.skip(f"{mark.args[0]} engine only: {mark.kwargs['reason']}"))


@pytest.fixture(autouse=True)
def no_lwp_left() -> Iterator[None]:
    """After a test no thread of this package is left, and the detector's tool id is free."""
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("hybridexec-")]
    assert not left
    assert all(sys.monitoring.get_tool(tool) != "hybridexec" for tool in range(6))


@pytest.fixture(autouse=True)
def nothing_needs_the_stack(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the modules for which the core looks at the stack: pytest imports one, and programs seldom do.

    With one of them imported, the compiled core leaves the plain case to the Python text, and would go untested.
    """
    if request.node.get_closest_marker("needs_stack") is None:
        for name in ("greenlet", "bdb", "pdb"):
            monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.fixture(autouse=True)
def heard_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process says once, each test may hear."""
    monkeypatch.setattr(reporting, "_refusals", Trouble(reporting._refusals._summary))


@pytest.fixture
def pair() -> Iterator[tuple[int, int]]:
    """A pipe."""
    with pipe() as ends:
        yield ends


@pytest.fixture
def loop() -> Iterator[HybridLoop]:
    """A loop, closed at the end."""
    loop = hybridexec.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def certificates() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a server and of a client that trusts it."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client
