"""Foreign runtimes: other loops and schedulers in the process, beside ours, over it, or in its place.

Each is right, or is refused in a sentence.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from compatibility.service import APPS, BAD, LIMIT, blocks_and_streams, get, serving, together

RUN = ["-m", "hybridexec", "run"]


def program(*command: str, engine: str, **variables: str) -> str:
    """A program's output, which has to end well and to say nothing that looks bad."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=APPS,
        env={**os.environ, "HYBRIDEXEC_ENGINE": engine, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stdout
    assert not BAD.search(done.stdout), done.stdout
    return done.stdout


@pytest.mark.compatibility(
    "gevent", "its monkey patch: refused in a sentence, in whichever order it is imported", runtime=True
)
def test_gevent(engine: str) -> None:
    refused, ran = program("patched.py", "gevent", engine=engine).splitlines()
    assert refused.startswith("gevent has patched the standard library: threads and locks are greenlets")
    assert ran == "ran"


@pytest.mark.compatibility(
    "eventlet", "its monkey patch: refused in a sentence, in whichever order it is imported", runtime=True
)
def test_eventlet(engine: str) -> None:
    *_, refused, ran = program("patched.py", "eventlet", engine=engine, PYTHONWARNINGS="ignore").splitlines()
    assert refused.startswith("eventlet has patched the standard library: threads and locks are greenlets")
    assert ran == "ran"


NESTS = "`asyncio.run` and `run_until_complete` in steps; each waits, and the loop moves on"


@pytest.mark.compatibility("nest-asyncio", NESTS, runtime=True)
def test_nest_asyncio(engine: str) -> None:
    assert program("nests.py", "nest_asyncio", engine=engine) == "0 1 2 3\n"


@pytest.mark.compatibility("nest-asyncio2", NESTS, runtime=True)
def test_nest_asyncio2(engine: str) -> None:
    assert program("nests.py", "nest_asyncio2", engine=engine) == "0 1 2 3\n"


@pytest.mark.compatibility(
    "greenback", "tasks that await in synchronous code, and block; they stay on one thread", runtime=True
)
def test_greenback(engine: str) -> None:
    assert program("with_greenback.py", engine=engine) == "0 1 2 3\n"


@pytest.mark.compatibility(
    "playwright",
    "its synchronous API (its driver and its requests; no browser was at hand): the loop stays, and says so",
    needs="`hybridexec run`",
    runtime=True,
)
def test_playwright(engine: str) -> None:
    said = program(*RUN, "with_playwright.py", engine=engine).splitlines()
    assert [line for line in said if line.startswith("/")] == ["/0", "/1", "/2"]
    (told,) = (line for line in said if not line.startswith("/"))
    assert "it stays on this thread" in told


@pytest.mark.compatibility(
    "trio", "as a guest on our loop: each side blocks until the other one has used httpx", runtime=True
)
def test_trio_as_a_guest(engine: str) -> None:
    assert program("trio_guest.py", engine=engine, PYTHONWARNINGS="default") == "asyncio: ok\ntrio: ok\n"


@pytest.mark.compatibility(
    "qasync",
    "its loop is Qt's, and runs as ever; `hybridexec run --report` says that it was not looked at",
    runtime=True,
)
def test_qasync(engine: str) -> None:
    done, report = program(*RUN, "--report", "on_qasync.py", engine=engine, QT_QPA_PLATFORM="offscreen").splitlines()
    assert done == "done"
    assert report.startswith("hybridexec: no event loop of hybridexec's has run, but qasync.")


@pytest.mark.compatibility(
    "Twisted",
    "its asyncioreactor over our loop: resources and coroutines that block; SIGTERM and Ctrl-C",
    needs="`asyncioreactor.install(hybridexec.new_event_loop())`",
    runtime=True,
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_twisted(engine: str, number: signal.Signals) -> None:
    with serving(["with_twisted.py"], engine=engine) as service:
        blocks_and_streams(service)
        service.stop_well(number)


UWSGI = "import pyuwsgi, sys; pyuwsgi.run(sys.argv[1:])"
OPTIONS = ["--wsgi-file", "wsgi.py", "--need-app", "--die-on-term", "--disable-logging"]


@pytest.mark.compatibility(
    "pyuwsgi",
    "uWSGI: a loop for each request, in one thread and in several; SIGTERM (its own loop does not run on Python 3.13)",
    needs="`hybridexec.run(...)`; `--enable-threads`",
    runtime=True,
)
@pytest.mark.parametrize("threads", [1, 4])
def test_uwsgi(engine: str, threads: int) -> None:
    listens = ["--http-socket", "127.0.0.1:{port}", "--enable-threads", "--threads", str(threads)]
    with serving(["-c", UWSGI, *listens, *OPTIONS], engine=engine) as service:
        assert together(*[lambda: get(service.url)] * 4) == ["moved"] * 4
        service.stop_well(status=[30], but=["running uWSGI"])  # what it ends with without a master


@pytest.fixture
def kernel(engine: str) -> Iterator[Any]:
    """A client of a Jupyter kernel whose loop is ours."""
    manager = KernelManager()
    assert manager.kernel_spec is not None
    manager.kernel_spec.argv[:] = [sys.executable, *RUN, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    manager.start_kernel(env={**os.environ, "HYBRIDEXEC_ENGINE": engine})
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=LIMIT)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
    assert not manager.is_alive()


MOVES = """
import asyncio, threading
released = threading.Event()
async def releases():
    released.set()
task = asyncio.create_task(releases())
released.wait()
await task
type(asyncio.get_running_loop()).__name__
"""

NESTED = """
import nest_asyncio2
nest_asyncio2.apply()
async def nested():
    await asyncio.sleep(0.001)
    return "nested"
asyncio.run(nested())
"""


@pytest.mark.compatibility(
    "ipykernel",
    "Jupyter's kernel: cells that block while their tasks go on; `nest_asyncio2` in a cell",
    needs="`hybridexec run -m ipykernel_launcher` in the kernel's `argv`",
    runtime=True,
)
def test_jupyter(kernel: Any) -> None:
    def cell(code: str) -> list[str]:
        shown: list[str] = []

        def output(message: Any) -> None:
            content = message["content"]
            if message["header"]["msg_type"] == "execute_result":
                shown.append(content["data"]["text/plain"])
            elif message["header"]["msg_type"] == "error":
                shown.append(f"{content['ename']}: {content['evalue']}")

        kernel.execute_interactive(code, output_hook=output, timeout=LIMIT)
        return shown

    assert cell(MOVES) == ["'HybridLoop'"]
    (refused,) = cell("import hybridexec\nhybridexec.run(releases())")
    assert refused == "RuntimeError: hybridexec.run() cannot be called from a running event loop"
    assert cell(NESTED) == ["'nested'"]
