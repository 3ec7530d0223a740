"""A service of somebody's server, in a process of its own, and what it has to do: start, answer, end.

What is looked at for every one of them: it ends with the status that is its own after a signal, it has said nothing
that looks like a warning or an exception, and no thread of the pool has kept it from its end.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

APPS = Path(__file__).parent / "apps"
BAD = re.compile(r"warning|traceback|exception|error|task was destroyed|never awaited", re.IGNORECASE)
"""What a service that is well does not say."""

LIMIT = 60.0
"""Seconds that a service may take to start, or to end."""


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal.  Returns its exit status; one that does not end is made to say where it hangs."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # faulthandler's
            self.process.wait(LIMIT)
            pytest.fail(f"the service does not end:\n{self.said()}")

    def stop_well(
        self, number: signal.Signals = signal.SIGTERM, *, status: Sequence[int] = (0,), but: Sequence[str] = ()
    ) -> None:
        """Stop it, and see that all was well.

        Args:
            number: the signal.
            status: the exit statuses that are right for this server.
            but: what it may say although it looks bad, as regular expressions.
        """
        code = self.stop(number)
        said = self.said()
        assert code in status, f"exit status {code}:\n{said}"
        bad = [line for line in said.splitlines() if BAD.search(line) and not any(re.search(b, line) for b in but)]
        assert not bad, said


@contextlib.contextmanager
def serving(command: Sequence[str], *, engine: str, port: int | None = None, **variables: str) -> Iterator[Service]:
    """A service that has started, and is gone afterwards.

    Args:
        command: what comes after the interpreter's name; ``{port}`` stands for the port.
        engine: the engine, for ``HYBRIDEXEC_ENGINE``.
        port: the port; a free one if it is not given.
        variables: more of the environment.
    """
    port = port or free_port()
    environment = {
        **os.environ,
        "HYBRIDEXEC_ENGINE": engine,
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "default",
        "PORT": str(port),
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
                cwd=APPS,
                env=environment,
            )
        service = Service(process, port, said)
        try:
            service.wait_until_it_listens()
            yield service
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def together(*functions: object) -> list[object]:
    """Call functions at once, each in a thread of its own.  Returns what they return; raises what one raises."""
    results: list[object] = [None] * len(functions)
    failures: list[BaseException] = []

    def call(index: int) -> None:
        try:
            results[index] = functions[index]()  # type: ignore[operator]
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=call, args=(index,)) for index in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results
