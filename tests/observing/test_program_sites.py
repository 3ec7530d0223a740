"""Whose line a block is: the program's, beside the library's that blocks."""

from __future__ import annotations

import asyncio
import functools
import http.server
import importlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import requests
from helpers import LIBC, Recorder, environment, fresh, pipe, play, running_loop

import hybridexec
from hybridexec import CallSite, UpcallKind
from hybridexec.instruments import Report


def first_line(function: Any) -> CallSite:
    """The site of the only line of a function of this file."""
    code = function.__code__
    return CallSite(code.co_filename, code.co_firstlineno + 1, code.co_qualname)


def of_blocker(recorder: Recorder) -> hybridexec.Upcall:
    """The one block of the scene's blocker; its end says the same."""
    (begun,) = recorder.of(UpcallKind.BLOCKED, "blocker")
    (over,) = recorder.of(UpcallKind.UNBLOCKED, "blocker")
    assert (begun.program_site, begun.via, begun.site) == (over.program_site, over.via, over.site)
    return begun


def test_a_call_of_the_program_s_own_is_its_own_site() -> None:
    with pipe() as (reader, writer):

        def reads() -> object:
            return os.read(reader, 1)

        upcall = of_blocker(play(reads, functools.partial(os.write, writer, b"x")).recorder)
    assert upcall.program_site == upcall.site == first_line(reads)
    assert upcall.via is None


def waits_for_event(event: threading.Event) -> object:
    return event.wait()


def waits_for_queue(things: queue.Queue[int]) -> object:
    return things.get()


def waits_for_future(future: Future[int]) -> object:
    return future.result()


def test_calls_of_the_library_are_the_lines_that_make_them() -> None:
    """All three block in one place of ``threading.py``."""
    event: threading.Event = threading.Event()
    things: queue.Queue[int] = queue.Queue()
    future: Future[int] = Future()
    seen: dict[CallSite, tuple[str | None, ...]] = {}
    for wait, thing, release in (
        (waits_for_event, event, event.set),
        (waits_for_queue, things, functools.partial(things.put, 1)),
        (waits_for_future, future, functools.partial(future.set_result, 1)),
    ):
        # Where a lock of the library's is taken it may look slow on a busy machine, and is no block.
        upcall = of_blocker(play(functools.partial(wait, thing), release, threshold=60).recorder)  # type: ignore[arg-type]
        assert upcall.program_site == first_line(wait)
        assert upcall.site is not None
        assert upcall.site.file == threading.__file__
        seen[upcall.site] = (*seen.get(upcall.site, ()), upcall.via)
    assert seen == {upcall.site: ("threading.Event.wait", "queue.Queue.get", "concurrent.futures._base.Future.result")}


def test_a_call_that_was_discovered_has_the_program_s_line() -> None:
    with pipe() as (reader, writer):
        calls: list[Callable[[], object]] = [functools.partial(LIBC.read, reader, bytes(1), 1)]

        def sorts() -> object:
            return sorted([1], key=lambda _: through(calls[0]))

        upcall = of_blocker(play(fresh(sorts), functools.partial(os.write, writer, b"x")).recorder)
    assert upcall.program_site == upcall.site == first_line(through)


def through(call: Callable[[], object]) -> int:
    call()
    return 0


def test_a_region_in_a_library_is_the_program_s_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is installed, and says by itself that it blocks."""
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "driver.py").write_text(
        "import os, hybridexec\ndef query(fd):\n    with hybridexec.blocking():\n        return os.read(fd, 1)\n"
    )
    monkeypatch.syspath_prepend(installed)
    driver = importlib.import_module("driver")

    with pipe() as (reader, writer):

        def asks() -> object:
            return driver.query(reader)

        upcall = of_blocker(play(asks, functools.partial(os.write, writer, b"x")).recorder)
    sys.modules.pop("driver")
    assert upcall.program_site == first_line(asks)
    assert upcall.site == CallSite(str(installed / "driver.py"), 3, "query")
    assert upcall.via == "driver.query"


def test_code_that_was_made_is_the_program_s() -> None:
    names: dict[str, Any] = {}
    exec(compile("def f(event):\n    event.wait()\n", "<template>", "exec"), names)
    event = threading.Event()
    upcall = of_blocker(play(functools.partial(names["f"], event), event.set).recorder)
    assert upcall.program_site == CallSite("<template>", 2, "f")


def test_where_no_line_is_the_program_s_it_is_the_outermost_of_a_library() -> None:
    """A callback that is a library's method."""
    event, recorder = threading.Event(), Recorder()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(event.wait)
        loop.call_soon(event.set)
        await asyncio.sleep(0)

    hybridexec.run(main(), instruments=[recorder])
    (upcall,) = recorder.of(UpcallKind.BLOCKED)
    assert upcall.program_site is not None
    assert (upcall.program_site.file, upcall.program_site.function) == (threading.__file__, "Event.wait")
    assert upcall.via == "threading.Condition.wait"


def test_where_there_is_no_line_at_all_there_is_none() -> None:
    """A C callable that an executor calls: the line that calls it is this package's."""
    lock = threading.Lock()
    lock.acquire()

    class Releases(Recorder):
        def blocked(self, upcall: hybridexec.Upcall) -> None:
            self._keep(upcall)
            lock.release()

    recorder = Releases()
    with hybridexec.HybridExecutor(1, instruments=[recorder]) as executor:
        assert executor.submit(lock.acquire).result()
    (upcall,) = recorder.of(UpcallKind.BLOCKED)
    assert upcall.program_site is None
    assert upcall.callable == "_thread.lock.acquire"


# ---------------------------------------------------------------- reports


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers when the loop has gone on."""

    arrived: list[str]
    moved: threading.Event

    def do_GET(self) -> None:
        self.arrived.append(self.path)
        self.moved.wait()
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def url() -> Iterator[str]:
    """Of a service that answers when ``Handler.moved`` is set."""
    Handler.arrived, Handler.moved = [], threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    Handler.moved.set()
    server.shutdown()
    server.server_close()
    thread.join()


async def users(url: str) -> None:
    requests.get(url, timeout=50)


async def billing(url: str) -> None:
    requests.get(url, timeout=50)


def test_each_handler_has_a_row_of_its_own(url: str) -> None:
    report = Report()

    async def main() -> None:
        tasks = [asyncio.create_task(handler(url)) for handler in (users, billing, users)]
        while len(Handler.arrived) < 3 or running_loop().stats().lwps_blocked < 3:  # each waits for its answer
            await asyncio.sleep(0.001)
        Handler.moved.set()
        await asyncio.gather(*tasks)

    hybridexec.run(main(), instruments=[report])
    rows = {row.program_site: row for row in report.rows() if (row.callable or "").endswith("recv_into")}
    assert set(rows) == {first_line(users), first_line(billing)}
    assert rows[first_line(users)].count >= 2
    assert {row.via for row in rows.values()} == {"requests.api.get"}


def test_mode_raise_names_the_program_s_line() -> None:
    event = threading.Event()
    scene = play(functools.partial(waits_for_event, event), event.set, mode="raise")
    assert isinstance(scene.error, hybridexec.BlockingCallError)
    where = first_line(waits_for_event)
    assert f"blocks the event loop at {where}, by way of {threading.__file__}:" in str(scene.error)


PROGRAM = """
import asyncio, threading

event = threading.Event()


async def settings():
    event.wait(0.02)


async def orders():
    event.wait(0.02)


async def main():
    await asyncio.gather(settings(), orders())


asyncio.run(main())
"""


def test_the_command_line_s_report_has_the_program_s_lines(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "hybridexec", "run", "--report", "app.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    output = done.stderr
    for line, function in (8, "settings"), (12, "orders"):
        (row,) = [text for text in output.splitlines() if f"app.py:{line} {function}" in text]
        assert "threading.Event.wait -> acquire" in row
    assert "threading.py" not in output


def test_nothing_is_computed_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        pytest.fail("nobody wants to know")

    monkeypatch.setattr("hybridexec.reactions.reporting.origin", refuses)

    async def main() -> None:
        with pipe() as (reader, writer):
            asyncio.get_running_loop().call_soon(os.write, writer, b"x")
            os.read(reader, 1)

    hybridexec.run(main())
