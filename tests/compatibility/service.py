"""A service of somebody's server, in a process of its own, and what it has to do: start, answer, end.

What is looked at for every one of them: it ends with the status that is its own after a signal, it has said nothing
that looks like a warning or an exception, and no thread of the pool has kept it from its end.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from websockets.sync.client import connect

APPS = Path(__file__).parent / "apps"
BAD = re.compile(r"warning|traceback|exception|error|task was destroyed|never awaited", re.IGNORECASE)
"""What a service that is well does not say."""

LIMIT = 100.0
"""Seconds that a service may take to start, or to end.  On a busy machine a large one takes its time."""


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Backend:
    """What handlers ask, by a blocking call, and what answers when the test wants it to.

    Attributes:
        port: where it listens, for the service's variable ``BACKEND``.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._listener.settimeout(LIMIT)
        self._asking: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]

    def wait_for(self, count: int) -> list[int]:
        """Until so many more handlers are asking, and so are blocked.  Returns the ids of their processes."""
        ids = []
        for _ in range(count):
            connection, _ = self._listener.accept()
            self._asking.append(connection)
            with connection.makefile() as lines:
                ids.append(int(lines.readline()))
        return ids

    def answer(self, text: str) -> None:
        """Answer all that are asking."""
        for connection in self._asking:
            with connection:
                connection.sendall(text.encode())
        self._asking.clear()

    def close(self) -> None:
        """Nobody is answered any more."""
        for connection in self._asking:
            connection.close()
        self._listener.close()


class Service:
    """A process that listens on a port of loopback.

    Attributes:
        process: the process.
        port: where it listens.
        url: the same, as the beginning of an address.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int, said: Path) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._said = said

    def said(self) -> str:
        """What it has written to its outputs so far."""
        return self._said.read_text(errors="replace")

    def wait_until_it_listens(self) -> None:
        """Until a connection is taken."""
        until = time.monotonic() + LIMIT
        while time.monotonic() < until:
            if self.process.poll() is not None:
                pytest.fail(f"the service has ended with {self.process.returncode}:\n{self.said()}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        pytest.fail(f"the service does not listen:\n{self.said()}")

    def wait_until_it_says(self, text: str) -> None:
        """Until it has written so."""
        until = time.monotonic() + LIMIT
        while text not in self.said():
            if time.monotonic() > until or self.process.poll() is not None:
                pytest.fail(f"the service does not say {text!r}:\n{self.said()}")
            time.sleep(0.02)

    def wait_until_it_refuses(self) -> None:
        """Until it listens no more, and so is about to end."""
        until = time.monotonic() + LIMIT
        with contextlib.suppress(ConnectionRefusedError):
            while True:
                with (
                    contextlib.suppress(ConnectionResetError),  # it has just stopped to listen
                    socket.create_connection(("127.0.0.1", self.port), LIMIT),
                ):
                    time.sleep(0.02)
                if time.monotonic() > until:
                    pytest.fail(f"the service goes on listening:\n{self.said()}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal: Ctrl-C to all of its processes, as a terminal does, and any other to the first one alone."""
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def wait(self) -> int:
        """Until all its processes have ended.  Returns the exit status; what hangs is made to say where."""
        until = time.monotonic() + LIMIT
        code = None
        while time.monotonic() < until:
            code = self.process.poll()
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                if code is not None:
                    return code
            time.sleep(0.02)
        os.killpg(self.process.pid, signal.SIGABRT)  # faulthandler's
        self.process.wait(LIMIT)
        pytest.fail(f"the service does not end, or leaves a process behind (status {code}):\n{self.said()}")

    def stop_well(
        self, number: signal.Signals | None = signal.SIGTERM, *, status: Sequence[int] = (0,), but: Sequence[str] = ()
    ) -> None:
        """Stop it, and see that all was well.

        Args:
            number: the signal; None if it has been sent.
            status: the exit statuses that are right for this server.
            but: what it may say although it looks bad, as regular expressions.
        """
        if number is not None:
            self.send(number)
        code = self.wait()
        said = self.said()
        assert code in status, f"exit status {code}:\n{said}"
        bad = [line for line in said.splitlines() if BAD.search(line) and not any(re.search(b, line) for b in but)]
        assert not bad, said


@contextlib.contextmanager
def serving(
    command: Sequence[str],
    *,
    engine: str,
    port: int | None = None,
    folder: Path = APPS,
    backend: Backend | None = None,
    listens: bool = True,
    **variables: str,
) -> Iterator[Service]:
    """A service that has started, and is gone afterwards.

    Args:
        command: what comes after the interpreter's name; ``{port}`` stands for the port.
        engine: the engine, for ``HYBRIDEXEC_ENGINE``.
        port: the port; a free one if it is not given.
        folder: where it runs.
        backend: what its handlers can ask.
        listens: whether to wait until it listens on the port; a worker has none.
        variables: more of the environment.
    """
    port = port or free_port()
    environment = {
        # some behave otherwise if they find themselves in a test
        **{name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
        "HYBRIDEXEC_ENGINE": engine,
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "default",
        "PORT": str(port),
        **({"BACKEND": str(backend.port)} if backend else {}),
        **variables,
    }
    with tempfile.TemporaryDirectory() as directory:
        said = Path(directory) / "said"
        with said.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *(word.format(port=port) for word in command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
        service = Service(process, port, said)
        try:
            if listens:
                service.wait_until_it_listens()
            yield service
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def get(url: str) -> str:
    """Ask by HTTP, on a connection of its own."""
    with urllib.request.urlopen(url, timeout=LIMIT) as response:
        body: str = response.read().decode()
        return body


def begin[T](*functions: Callable[[], T]) -> Callable[[], list[T]]:
    """Call functions at once, each in a thread of its own.

    Returns:
        What waits for them, and returns what they return, or raises what one has raised.
    """
    pool = concurrent.futures.ThreadPoolExecutor(len(functions))
    futures = [pool.submit(function) for function in functions]

    def end() -> list[T]:
        with pool:
            return [future.result() for future in futures]

    return end


def together[T](*functions: Callable[[], T]) -> list[T]:
    """Call functions at once, each in a thread of its own.  Returns what they return; raises what one raises."""
    return begin(*functions)()


def block_each_worker(service: Service, backend: Backend, count: int) -> Callable[[], list[str]]:
    """Ask until a handler of each of so many workers is blocked: the kernel gives a connection to any.

    Returns:
        What waits for the answers.
    """
    workers: set[int] = set()
    endings = []
    while len(workers) < count:
        endings.append(begin(lambda: get(f"{service.url}/backend")))
        workers.update(backend.wait_for(1))
    return lambda: [answer for end in endings for answer in end()]


def answers_although_told_to_end(service: Service, backend: Backend, number: signal.Signals) -> None:
    """A signal comes while handlers are blocked, and the service listens no more: they still answer."""
    answers = begin(*[lambda: get(f"{service.url}/backend")] * 8)
    backend.wait_for(8)
    service.send(number)
    service.wait_until_it_refuses()
    backend.answer("at last")
    assert answers() == ["at last"] * 8


def blocks_and_streams(service: Service) -> None:
    """Have handlers block on other requests, all at once, and in the middle of streams until another puts what they
    wait for."""
    assert together(*[lambda: get(f"{service.url}/outer")] * 8) == ["outer inner"] * 8
    streams = begin(*[lambda: get(f"{service.url}/stream")] * 4)
    for _ in range(4):
        get(f"{service.url}/put/middle")
    assert streams() == ["first middle last"] * 4


def websockets_wait(service: Service) -> None:
    """Have websockets' handlers of ``bare.py`` block until another's releases them."""
    with contextlib.ExitStack() as stack:
        url = f"ws://127.0.0.1:{service.port}/"
        *takers, putter = (stack.enter_context(connect(url)) for _ in range(5))
        for taker in takers:
            taker.send("take")
        for _ in takers:
            putter.send("put word")
            assert putter.recv(LIMIT) == "put"
        assert [taker.recv(LIMIT) for taker in takers] == ["word"] * 4
        putter.send("call")
        assert putter.recv(LIMIT) == "inner"
