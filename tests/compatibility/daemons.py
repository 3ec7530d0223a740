"""PostgreSQL and Redis for the tests: real ones, on ports of loopback and in temporary folders, ended afterwards."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from compatibility import debian
from compatibility.service import LIMIT, free_port


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A temporary folder of whoever runs the servers: not root, which PostgreSQL refuses to run as."""
    with tempfile.TemporaryDirectory(prefix="hybridexec-") as name:
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(name, nobody.pw_uid, nobody.pw_gid)
        yield Path(name)


def _unprivileged(command: Sequence[str | Path]) -> list[str]:
    """The command as whoever runs the servers; it gets a SIGINT if the tests are killed (pytest-timeout does so)."""
    user: list[str] = []
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        user = [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    return ["setpriv", *user, "--pdeathsig=INT", *map(str, command)]


@contextlib.contextmanager
def _running(command: Sequence[str | Path], variables: dict[str, str], folder: Path, port: int) -> Iterator[None]:
    """A server that listens; it is ended by SIGINT, which for both means to close the connections and end."""
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            _unprivileged(command),
            env={**os.environ, **variables},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        until = time.monotonic() + LIMIT
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"{command[0]} does not listen:\n{log.read_text(errors='replace')}")
            time.sleep(0.02)
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _program(name: str, package: str, places: str = "usr/bin") -> tuple[Path, dict[str, str]]:
    try:
        return debian.program(name, package, places)
    except debian.CannotBeHad as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A PostgreSQL with an empty database, by its URL."""
    initdb, variables = _program("initdb", "postgresql", "usr/lib/postgresql/*/bin")
    with _folder() as folder:
        data, port = folder / "data", free_port()
        command: list[str | Path] = [
            initdb,
            "--pgdata",
            data,
            "--username=postgres",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
        ]
        done = subprocess.run(
            _unprivileged([*command, "--locale=C"]),
            env={**os.environ, **variables},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        settings = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "jit": "off",
        }
        options = [f"--{key}={value}" for key, value in settings.items()]
        server: list[str | Path] = [initdb.with_name("postgres"), "-D", data, *options]
        with _running(server, variables, folder, port):
            url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
            _wait_until_it_is_ready(initdb.with_name("pg_isready"), url, variables)
            yield url


def _wait_until_it_is_ready(pg_isready: Path, url: str, variables: dict[str, str]) -> None:
    """It listens before it lets anybody in."""
    command = [str(pg_isready), "--quiet", "--dbname", url]
    if pg_isready.exists():
        while subprocess.run(command, env={**os.environ, **variables}).returncode != 0:
            time.sleep(0.02)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """A Redis that keeps nothing on disk, by its URL."""
    server, variables = _program("redis-server", "redis-server")
    with _folder() as folder:
        port = free_port()
        command: list[str | Path] = [
            server,
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        with _running(command, variables, folder, port):
            yield f"redis://127.0.0.1:{port}/0"
