"""A real uvicorn, in a process of its own, whose ``async def`` handlers block."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from helpers import environment, holds

import hybridexec

CONNECTIONS = 64
OURS = "hybridexec:new_event_loop"
THEIRS = "asyncio"


class Server:
    """A uvicorn process that listens on a unix socket.

    Attributes:
        process: the process.
        socket: where it listens.
        tally: where the service says how many requests it has begun and ended.
    """

    def __init__(self, process: subprocess.Popen[str], socket: Path, tally: Path) -> None:
        self.process = process
        self.socket = socket
        self.tally = tally

    async def get(self, path: str) -> str:
        """One request, on a connection of its own: the response's body."""
        reader, writer = await asyncio.open_unix_connection(self.socket)
        body = await exchange(reader, writer, path)
        writer.close()
        assert body is not None
        return body

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal; the exit status, and what it had to say."""
        self.process.send_signal(number)
        errors = self.finish()
        return self.process.returncode, errors

    def read_until(self, text: str) -> None:
        """Read what it says until it says this."""
        assert self.process.stderr is not None
        said = ""
        while text not in said:
            line = self.process.stderr.readline()
            said += line
            assert line, said

    def finish(self) -> str:
        """Wait for its end: what it had to say.  One that hangs is made to say where."""
        try:
            _, errors = self.process.communicate(timeout=100)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            _, errors = self.process.communicate(timeout=100)
            pytest.fail(f"the server does not end:\n{errors}")
        return errors


@contextlib.contextmanager
def serving(directory: Path, app: str, loop: str = OURS, **variables: str) -> Iterator[Server]:
    """A uvicorn that has started."""
    socket, tally = directory / "socket", directory / "tally"
    for path in (socket, tally):
        path.unlink(missing_ok=True)
    serving = Path(__file__).parent / "serving"
    command = [sys.executable, "-m", "uvicorn", f"apps:{app}", "--app-dir", str(serving), "--uds", str(socket)]
    process = subprocess.Popen(
        [*command, "--loop", loop, "--no-access-log"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(
            SERVING_TALLY=str(tally), SERVING_DATABASE=str(directory / "database"), PYTHONFAULTHANDLER="1", **variables
        ),
    )
    server = Server(process, socket, tally)
    try:
        server.read_until("running on")
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> str | None:
    """One request and its response's body; None if the server has closed the connection instead of answering."""
    with contextlib.suppress(ConnectionError):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        except asyncio.IncompleteReadError as exc:
            assert not exc.partial
            return None
        assert head.startswith("http/1.1 200")
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        return (await reader.readexactly(length)).decode()
    return None


async def load(server: Server, number: signal.Signals) -> int:
    """Requests in closed loops on many connections; the signal comes in the middle.  How many were answered."""
    answered = 0
    warm = asyncio.Barrier(CONNECTIONS + 1)

    async def client() -> None:
        nonlocal answered
        reader, writer = await asyncio.open_unix_connection(server.socket)
        requests = 0
        while await exchange(reader, writer, "/sleep") == "slept":
            answered += 1
            requests += 1
            if requests == 2:
                await warm.wait()
        writer.close()

    async def stopper() -> None:
        await warm.wait()
        server.process.send_signal(number)

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)), stopper())
    return answered


def stop_under_load(directory: Path, app: str, loop: str, number: signal.Signals) -> int:
    """Stop a service that is fully loaded, and see that nothing was lost; its exit status."""
    with serving(directory, app, loop, SERVING_NAP="0.005") as server:
        answered = asyncio.run(load(server, number))
        errors = server.finish()
        assert "Traceback" not in errors, errors
        assert "ERROR" not in errors, errors
        assert "Application shutdown complete" in errors, errors
        began, ended = map(int, server.tally.read_text().split())
        assert began == ended == answered
        return server.process.returncode


def status_of(directory: Path, number: signal.Signals) -> int:
    """The exit status that uvicorn has on asyncio's own loop."""
    with serving(directory, "plain", THEIRS) as server:
        return server.stop(number)[0]


# ---------------------------------------------------------------- serving


@pytest.mark.parametrize("app", ["plain", "star", "fast"])
def test_a_request_releases_what_another_waits_for(tmp_path: Path, app: str) -> None:
    """A lock; a transaction of a sqlite file.  On asyncio's own loop each would hang for ever."""

    async def main(server: Server) -> None:
        held = [asyncio.create_task(server.get("/hold")) for _ in range(10)]
        for _ in range(10):
            assert await server.get("/free") == "freed"
            await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
            held = [task for task in held if not task.done()]
        assert not held
        written = asyncio.create_task(server.get("/write"))
        while not (server.tally.parent / "database-written").exists():
            await asyncio.sleep(0.001)
        counts = [asyncio.create_task(server.get("/count")) for _ in range(5)]
        assert await server.get("/sleep") == "slept"
        assert await server.get("/commit") == "committed"
        assert await written == "written"
        assert await asyncio.gather(*counts) == ["1"] * 5

    with serving(tmp_path, app) as server:
        asyncio.run(main(server))
        status, errors = server.stop(signal.SIGTERM)
        assert "Traceback" not in errors, errors
        assert status == status_of(tmp_path, signal.SIGTERM)


@pytest.mark.parametrize("app", ["plain", "star", "fast"])
def test_a_signal_comes_while_every_request_is_blocked(tmp_path: Path, app: str) -> None:
    """What the requests wait for comes after the server has begun to stop: none is lost."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    end = os.open(fifo, os.O_RDWR)

    async def main(server: Server) -> None:
        requests = [asyncio.create_task(server.get("/fifo")) for _ in range(CONNECTIONS)]
        asked = 0
        while int(await server.get("/began")) <= CONNECTIONS + asked:
            asked += 1
        server.process.send_signal(signal.SIGTERM)
        server.read_until("Waiting for connections to close")
        os.write(end, b"x" * CONNECTIONS)
        assert await asyncio.gather(*requests) == ["x"] * CONNECTIONS

    with serving(tmp_path, app, SERVING_FIFO=str(fifo)) as server:
        asyncio.run(main(server))
        errors = server.finish()
        assert "Traceback" not in errors, errors
        assert server.process.returncode == -signal.SIGTERM
    os.close(end)


def test_raise_event_loop_refuses_the_blocking_handler(tmp_path: Path) -> None:
    """The server goes on; the request fails, and the log names the call and its line."""

    async def main(server: Server) -> None:
        reader, writer = await asyncio.open_unix_connection(server.socket)
        writer.write(b"GET /sleep HTTP/1.1\r\nHost: here\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 500")
        writer.close()
        assert await server.get("/began") == "2"

    with serving(tmp_path, "plain", "hybridexec:raise_event_loop") as server:
        asyncio.run(main(server))
        status, errors = server.stop(signal.SIGTERM)
        assert re.search(r"BlockingCallError: time\.sleep blocks the event loop at .*apps\.py:\d+:sleep", errors)
        assert status == -signal.SIGTERM


# ---------------------------------------------------------------- stopping under full load


@pytest.mark.parametrize("app", ["plain", "star", "fast"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_loaded_service_stops_cleanly(tmp_path: Path, app: str, number: signal.Signals) -> None:
    assert stop_under_load(tmp_path, app, OURS, number) == status_of(tmp_path, number)


@pytest.mark.hunt
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_loaded_service_stops_cleanly_twenty_times(tmp_path: Path, number: signal.Signals) -> None:
    statuses = [stop_under_load(tmp_path, "plain", OURS, number) for _ in range(20)]
    assert statuses == [status_of(tmp_path, number)] * 20


# ---------------------------------------------------------------- others that take a loop's factory


async def moves() -> int:
    """Blocks on what only a task of the same loop releases."""
    lock = threading.Lock()
    lock.acquire()

    async def release() -> None:
        lock.release()

    task = asyncio.create_task(release())
    lock.acquire()
    assert holds(asyncio.get_running_loop())
    await task
    return 42


def test_asyncio_runner_takes_the_factory() -> None:
    with asyncio.Runner(loop_factory=hybridexec.new_event_loop) as runner:
        assert isinstance(runner.get_loop(), hybridexec.HybridLoop)
        assert runner.run(moves()) == 42
        assert runner.run(moves()) == 42


def test_anyio_takes_the_factory() -> None:
    async def main() -> list[Any]:
        results: list[Any] = []

        async def task() -> None:
            results.append(await moves())
            results.append(await anyio.to_thread.run_sync(threading.current_thread))

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(task)
        with anyio.move_on_after(0.01) as scope:
            time.sleep(0.02)
            await anyio.sleep(60)
        assert scope.cancelled_caught
        return results

    results = anyio.run(main, backend_options={"loop_factory": hybridexec.new_event_loop})
    assert results.count(42) == 3
    assert len(results) == 6
