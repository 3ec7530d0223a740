"""``hybridexec serve``: uvicorn on our loop, in real processes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from command_line import HYBRIDEXEC, execute, write
from helpers import environment

SERVE = (*HYBRIDEXEC, "serve")
UVICORN = (sys.executable, "-m", "uvicorn")

SERVICE = """
    import asyncio, os, pathlib, threading

    blocked = asyncio.Event()
    released = threading.Event()
    VERSION = 1

    async def wait():
        blocked.set()
        released.wait()

    async def release():
        await blocked.wait()
        released.set()

    async def fifo():
        name = os.environ["SERVING_FIFO"]
        pathlib.Path(f"{name}-{os.getpid()}-{id(asyncio.current_task())}").touch()
        fd = os.open(name, os.O_RDONLY)
        os.read(fd, 1)
        os.close(fd)

    async def told():
        pass

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await globals()[scope["path"].strip("/")]()
        loop = asyncio.get_running_loop()
        config = getattr(loop, "config", None)
        words = type(loop).__name__, os.getpid(), VERSION, config and config.mode, config and config.threshold
        body = " ".join(map(str, words)).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
"""


class Server:
    """A process that serves.

    Attributes:
        process: the process.
        url: where it listens.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        self.process = process
        said = ""
        while not (found := re.search(r"running on (http://[\d.:]+)", said)):
            said += (line := process.stderr.readline())
            assert line, said
        self.url = found[1]

    def get(self, path: str) -> list[str]:
        """One request on a connection of its own: the words of its answer."""
        response = requests.get(f"{self.url}/{path}", timeout=100)
        assert response.status_code == 200
        return response.text.split()

    def get_some_time(self, path: str) -> list[str]:
        """The same, while the process that serves is about to start, or to be replaced."""
        while True:
            assert self.process.poll() is None
            with contextlib.suppress(requests.ConnectionError):
                return self.get(path)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; the exit status, and what it had to say."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=100)
        return self.process.returncode, errors


@contextlib.contextmanager
def started(command: tuple[str, ...], directory: Path, *options: str, **variables: str) -> Iterator[Server]:
    """A server that has started; with its workers, it has a process group of its own."""
    write(directory / "service.py", SERVICE)
    process = subprocess.Popen(
        [*command, *options, "--port", "0", "--lifespan", "off"],
        cwd=directory,
        env=environment(PYTHONDONTWRITEBYTECODE="1", **variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        yield Server(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def status_of(directory: Path, number: signal.Signals, *options: str) -> int:
    """The exit status of uvicorn itself."""
    with started(UVICORN, directory, "service:app", *options) as server:
        server.get_some_time("told")  # before that a supervisor has no signal handlers yet
        return server.stop(number)[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_releases_what_another_waits_for(tmp_path: Path, number: signal.Signals) -> None:
    """On asyncio's loop both would hang.  Options of ours and of uvicorn's come in any order."""
    options = ("--log-level", "info", "--threshold", "0.25", "service:app", "--report", "--backlog", "99")
    with started(SERVE, tmp_path, *options) as server, concurrent.futures.ThreadPoolExecutor() as pool:
        waits = pool.submit(server.get, "wait")
        assert server.get("release")[0] == "HybridLoop"
        assert waits.result()[2:] == ["1", "handoff", "0.25"]
        status, errors = server.stop(number)
    assert "Finished server process" in errors
    assert "hybridexec: 1 blocking call; the default loop would have stood still for" in errors
    assert re.search(r"service\.py:\d+ wait .* threading\.Event\.wait -> acquire", errors)
    assert "Traceback" not in errors
    assert status == status_of(tmp_path, number)


def test_mode_raise_refuses_the_blocking_request(tmp_path: Path) -> None:
    with started(SERVE, tmp_path, "service:app", "--mode=raise") as server:
        assert requests.get(f"{server.url}/wait", timeout=100).status_code == 500
        assert server.get("told")[3] == "raise"
        _, errors = server.stop()
    assert re.search(
        r"BlockingCallError: _thread\.lock\.acquire blocks the event loop at .*service\.py:\d+:wait", errors
    )


def test_each_worker_serves_while_its_handlers_block(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    options = ("service:app", "--workers", "2")
    with (
        started(SERVE, tmp_path, *options, "--mode", "handoff", "--report", SERVING_FIFO=str(fifo)) as server,
        concurrent.futures.ThreadPoolExecutor(40) as pool,
    ):
        server.get_some_time("told")
        blocked = [pool.submit(server.get, "fifo") for _ in range(8)]
        answered: set[str] = set()
        while len(list(tmp_path.glob("fifo-*"))) < len(blocked):
            server.get("told")
        while len(answered) < 2:  # the worker, or both, that the blocked ones are in, and the other one
            for request in [pool.submit(server.get, "told") for _ in range(16)]:
                loop, process, *_ = request.result()
                assert loop == "HybridLoop"
                answered.add(process)
        assert not any(request.done() for request in blocked)
        with fifo.open("wb") as end:
            end.write(b"x" * len(blocked))
            end.flush()
            assert {request.result()[1] for request in blocked} <= answered
        assert str(server.process.pid) not in answered
        status, errors = server.stop()
    assert "Traceback" not in errors
    assert {f"hybridexec (process {process}):" in errors for process in answered} == {True}
    assert "hybridexec: " not in errors  # the supervisor has no loop
    assert status == status_of(tmp_path, signal.SIGTERM, "--workers", "2")


def test_it_reloads(tmp_path: Path) -> None:
    with started(SERVE, tmp_path, "service:app", "--reload", "--threshold=0.25") as server:
        first = server.get_some_time("told")
        assert (first[0], first[2:]) == ("HybridLoop", ["1", "handoff", "0.25"])
        write(tmp_path / "service.py", SERVICE.replace("VERSION = 1", "VERSION = 2"))
        while (second := server.get_some_time("told"))[2] == "1":
            (tmp_path / "service.py").touch()  # uvicorn may not have looked at it for the first time yet
        assert (second[0], second[2:]) == ("HybridLoop", ["2", "handoff", "0.25"])
        assert first[1] != second[1]
        status, errors = server.stop()
    assert "Traceback" not in errors
    assert status == status_of(tmp_path, signal.SIGTERM, "--reload")


# ---------------------------------------------------------------- arguments


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["app:app", "--loop", "uvloop"], "--loop: the loop is ours"),
        (["app:app", "--loop=uvloop"], "--loop: the loop is ours"),
        (["app:app", "--mode", "nonsense"], "mode=<str of length 8>: allowed are 'handoff', 'observe', 'raise'"),
        (["app:app", "--nonsense"], "Usage: hybridexec serve"),
        ([], "APP"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: list[str], says: str) -> None:
    found = execute(*SERVE, *arguments, cwd=tmp_path, COLUMNS="200")
    assert found.returncode == 2
    assert says in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("uvicorn", "says"),
    [
        ("None", "hybridexec: serve needs uvicorn: pip install uvicorn\n"),
        ("uvicorn", "hybridexec: serve needs uvicorn 0.36 or later, and this is 0.35.0\n"),
    ],
)
def test_without_a_uvicorn_that_takes_the_loop(tmp_path: Path, uvicorn: str, says: str) -> None:
    script = write(
        tmp_path / "script.py",
        f"""
        import sys, types
        from hybridexec.cli import main

        uvicorn = types.ModuleType("uvicorn")
        uvicorn.__version__ = "0.35.0"
        sys.modules["uvicorn.main"] = types.SimpleNamespace(main=None)
        sys.modules["uvicorn"] = {uvicorn}
        main()
        """,
    )
    found = execute(sys.executable, script, "serve", "app:app", cwd=tmp_path)
    assert found.returncode == 1
    assert found.stderr == says
