"""The examples, each by the command at its head."""

from __future__ import annotations

import concurrent.futures
import contextlib
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from helpers import ROOT, environment, start


def command(name: str) -> list[str]:
    """The command at the head of an example, run by this interpreter."""
    (line,) = re.findall(r"^    (hybridexec .*)$", (ROOT / "examples" / name).read_text(), re.MULTILINE)
    _, *arguments = shlex.split(line)
    return [sys.executable, "-m", "hybridexec", *arguments]


def on_asyncio(name: str) -> list[str]:
    """The same program without the command line."""
    return [sys.executable, command(name)[-1]]


def run(*arguments: str) -> list[str]:
    """Run a program that ends well; the lines it has printed."""
    done = subprocess.run(arguments, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.splitlines()


def test_the_lock_is_released() -> None:
    assert run(*command("lock.py")) == [
        "first wants the lock",
        "first has it",
        "second wants the lock",
        "first has released it",
        "second has it",
        "second has released it",
    ]


def test_ten_handlers_wait_at_a_time_in_synchronous_code() -> None:
    assert run(*command("bridge.py")) == [*(f"hello user {n}" for n in range(10)), "together"]


def test_on_asyncio_the_lock_is_waited_for_while_nothing_else_runs() -> None:
    """The stacks say so: the loop's only thread stands in the second task's ``with`` statement."""
    program = """
        import faulthandler, runpy, sys, threading

        def ends_it():
            sys.stdin.readline()
            faulthandler.dump_traceback_later(1, exit=True)

        threading.Thread(target=ends_it, daemon=True).start()
        runpy.run_path("examples/lock.py")
    """
    with start(program, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "second wants the lock\n":
                break
        rest, _ = process.communicate("end\n", timeout=100)
    assert process.returncode == 1
    assert "released" not in rest
    assert re.search(r"lock\.py\", line \d+ in update", rest)


@pytest.mark.parametrize("how", [command, pytest.param(on_asyncio, marks=pytest.mark.slow)])
def test_the_crawler_sees_every_page(how: Callable[[str], list[str]]) -> None:
    (line,) = run(*how("crawler.py"))
    assert re.fullmatch(r"60 pages in \d+\.\d\d s", line)


@pytest.mark.parametrize("how", [command, on_asyncio])
def test_the_executor_handles_every_document(how: Callable[[str], list[str]]) -> None:
    documents, user_threads = run(*how("executor.py"))
    assert re.fullmatch(r"40 documents in \d+\.\d\d s", documents)
    assert user_threads == "81 user threads are done"


@pytest.mark.parametrize("how", [command, pytest.param(on_asyncio, marks=pytest.mark.slow)])
def test_each_task_has_a_session_of_its_own(how: Callable[[str], list[str]]) -> None:
    assert run(*how("scoped_session.py")) == ["20 customers with {2} orders each"]


@pytest.mark.parametrize("how", [command, pytest.param(on_asyncio, marks=pytest.mark.slow)])
def test_each_request_has_a_connection_of_its_own(how: Callable[[str], list[str]]) -> None:
    assert run(*how("django_views.py")) == ["20 customers with 2 orders each"]


@contextlib.contextmanager
def service(directory: Path) -> Iterator[str]:
    """The service, on a port that is free; its URL.  It has to stop cleanly, and to leave nothing in the directory."""
    arguments = command("service.py")
    arguments[arguments.index("--port") + 1] = "0"
    variables = environment(TMPDIR=str(directory))
    process = subprocess.Popen(arguments, cwd=ROOT, env=variables, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines: list[str] = []
    try:
        for line in process.stderr:
            lines.append(line)
            found = re.search(r"running on (http://[\d.:]+)", line)
            if found:
                break
        else:
            pytest.fail("".join(lines))
        rest = threading.Thread(target=lambda: lines.extend(process.stderr or ()))
        rest.start()
        yield found[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(100) == -signal.SIGTERM
        rest.join()
        assert "Application shutdown complete" in "".join(lines)
        assert "Traceback" not in "".join(lines), "".join(lines)
        assert not list(directory.iterdir())
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stderr.close()


def test_the_service_serves_others_while_a_handler_blocks(tmp_path: Path) -> None:
    with service(tmp_path) as url, concurrent.futures.ThreadPoolExecutor(20) as pool:

        def get(path: str) -> dict[str, float]:
            answer = requests.get(url + path, timeout=100)
            answer.raise_for_status()
            return dict(answer.json())

        # The handler of each blocks until the service has answered another request of its own.
        relayed = pool.map(get, ["/relay?seconds=0.05"] * 10)
        visits = pool.map(get, ["/visits"] * 10)
        assert list(relayed) == [{"relayed": 0.05}] * 10
        assert sorted(answer["visits"] for answer in visits) == list(range(1, 11))
        assert requests.get(url + "/slow?seconds=-1", timeout=100).status_code == 422
