"""The processes of a measurement: servers, and the client that loads them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

CONNECTIONS = 64
BARE = "bare"
PATIENCE = 30.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Served:
    """What a load has measured.

    Attributes:
        rate: requests per second.
        p99: of the time that a request took, in seconds.
        errors: requests without a right answer, and connections that the server has closed.
        processor: seconds of the server's processor time per request.
    """

    rate: float
    p99: float
    errors: int
    processor: float


@contextlib.contextmanager
def limited(process: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    """Kill a process that does not do its part in time."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Server:
    """A uvicorn, or the bare server.

    Args:
        handler: which of ``apps.py``, or ``BARE``.
        loop: uvicorn's ``loop``; the bare server has none.
        nap: how long its handler blocks, in seconds.
    """

    def __init__(self, handler: str, loop: str, nap: float = 0) -> None:
        program = ["benchmarks.bare"] if handler == BARE else ["benchmarks.server", handler, loop]
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115  # a pipe might be full
        self._process = subprocess.Popen(
            [sys.executable, "-m", *program, str(nap)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        assert self._process.stdout is not None
        with limited(self._process, PATIENCE):
            line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise RuntimeError(f"the server did not start: {self._said()}")
        self._port: int = json.loads(line)["port"]

    def load(self, seconds: float, warm: float = 0.3) -> Served:
        """Load it from a process of its own."""
        before = self._processor()
        with self._client(warm, seconds) as client, limited(client, PATIENCE + seconds):
            said, _ = client.communicate()
        if client.returncode:
            raise RuntimeError(f"the client has failed: {client.returncode}; {self._said()}")
        figures = json.loads(said.splitlines()[1])
        return Served(
            rate=figures["requests"] / figures["seconds"] if figures["requests"] else 0.0,
            p99=figures["p99"],
            errors=figures["errors"] + figures["closed"],
            processor=(self._processor() - before) / figures["answered"] if figures["answered"] else float("inf"),
        )

    def stop(self) -> str:
        """Stop it; what there is to complain about."""
        self._process.send_signal(signal.SIGTERM)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with limited(self._process, PATIENCE):
            said = self._process.stdout.read()
            self._process.wait()
        self._process.stdin.close()  # not before: the end of its input would stop it once more
        self._process.stdout.close()
        complaints = self._said()
        # uvicorn raises the signal that has stopped it once more, when all is done.
        if self._process.returncode not in (0, -signal.SIGTERM):
            complaints += f"exit status {self._process.returncode}\n"
        tally = json.loads(said) if said else {"began": -1, "ended": 0}
        if tally["began"] != tally["ended"]:
            complaints += f"requests: {tally}\n"
        self._errors.close()
        return complaints

    def stop_under_load(self) -> str:
        """Stop it in the middle of a load; what there is to complain about."""
        with self._client(0.3, PATIENCE) as client, limited(client, 2 * PATIENCE):
            assert client.stdout is not None
            client.stdout.readline()  # it is warm
            complaints = self.stop()
            said, _ = client.communicate()
        errors = json.loads(said)["errors"] if client.returncode == 0 else "it has failed"
        return complaints + (f"client's errors: {errors}\n" if errors else "")

    def _client(self, warm: float, seconds: float) -> subprocess.Popen[str]:
        arguments = [str(self._port), str(CONNECTIONS), str(warm), str(seconds)]
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load", *arguments], stdout=subprocess.PIPE, text=True
        )

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read()

    def _processor(self) -> float:
        """The seconds of processor time that it has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


@contextlib.contextmanager
def servers(*kinds: tuple[str, str], nap: float = 0) -> Iterator[list[Server]]:
    """Several servers at once: those that are not loaded cost nothing.

    Raises:
        RuntimeError: one of them did not stop well.
    """
    made: list[Server] = []
    try:
        for handler, loop in kinds:
            made.append(Server(handler, loop, nap))
        yield made
    finally:
        complaints = [complaint for server in made if (complaint := server.stop())]
    if complaints:
        raise RuntimeError("a server did not stop well: " + "; ".join(complaints))
