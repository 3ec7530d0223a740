"""The catalogue: what libraries block on is seen at its bottom, and what will not block, or is wrong, is let be."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import http.client
import multiprocessing
import os
import pty
import queue
import socket
import sqlite3
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from helpers import Recorder, environment, fresh, holds, play, running_loop

import hybridexec
from hybridexec import Detection, UpcallKind

type Case = tuple[Callable[[], object], Callable[[], object]]
type Maker = Callable[[contextlib.ExitStack, Path], Case]

# ---------------------------------------------------------------- libraries: (what blocks, what releases it)


def a_barrier(stack: contextlib.ExitStack, folder: Path) -> Case:
    barrier = threading.Barrier(2)
    return barrier.wait, barrier.wait


def a_lock_of_processes(stack: contextlib.ExitStack, folder: Path) -> Case:
    lock = multiprocessing.get_context("spawn").Lock()
    lock.acquire()
    return lock.acquire, lock.release


def a_lock_of_a_file(stack: contextlib.ExitStack, folder: Path) -> Case:
    first, second = os.open(Path(folder, "file"), os.O_CREAT), os.open(Path(folder, "file"), os.O_CREAT)
    stack.callback(os.close, first)
    stack.callback(os.close, second)
    fcntl.flock(first, fcntl.LOCK_EX)
    return lambda: fcntl.flock(second, fcntl.LOCK_EX), lambda: fcntl.flock(first, fcntl.LOCK_UN)


def tls(stack: contextlib.ExitStack, folder: Path) -> Case:
    """Both sides of a handshake, each of which waits for the other."""
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    ours, theirs = socket.socketpair()
    stack.enter_context(ours)
    stack.enter_context(theirs)

    def serves() -> None:
        with server_context.wrap_socket(ours, server_side=True) as secure:
            assert secure.recv(100) == b"hello"
            secure.sendall(b"bye")

    def asks() -> None:
        with client_context.wrap_socket(theirs, server_hostname="localhost") as secure:
            secure.sendall(b"hello")
            assert secure.recv(100) == b"bye"

    return serves, asks


def a_receiving_method_of_a_superclass(stack: contextlib.ExitStack, folder: Path) -> Case:
    class Counting(socket.socket):
        def recv(self, size: int, flags: int = 0) -> bytes:
            receive = super().recv
            return receive(size, flags) if flags else receive(size)

    ours, theirs = socket.socketpair()
    counting = stack.enter_context(Counting(fileno=ours.detach()))
    stack.enter_context(theirs)
    return functools.partial(counting.recv, 1), functools.partial(theirs.send, b"x")


LIBRARIES: list[Maker] = [
    a_barrier,
    a_lock_of_processes,
    a_lock_of_a_file,
    tls,
    a_receiving_method_of_a_superclass,
]


@pytest.mark.parametrize("make", LIBRARIES, ids=lambda make: make.__name__)
def test_the_loop_leaves_what_a_library_blocks_on(make: Maker, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        scene = play(*make(stack, tmp_path))
        assert scene.error is None
        assert scene.order[:2] == ["blocks", "releases"]
        assert scene.held
        assert set(scene.recorder.detections()) == {Detection.DECLARED}


def test_a_tls_connection_that_does_not_block_keeps_the_loop() -> None:
    """It computes without the GIL, and may not be used by another step meanwhile: a blocking one was left there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def secured(stack: contextlib.ExitStack) -> tuple[ssl.SSLSocket, socket.socket]:
        ours, theirs = map(stack.enter_context, socket.socketpair())
        secure = context.wrap_socket(ours, server_side=True, do_handshake_on_connect=False)
        return stack.enter_context(secure), theirs

    async def main() -> None:
        loop = running_loop()
        with contextlib.ExitStack() as stack:
            secure, theirs = secured(stack)

            async def close() -> None:
                while not loop.stats().lwps_blocked:
                    await asyncio.sleep(0.001)
                await asyncio.sleep(loop.config.threshold)  # so that the site is taken for slow
                theirs.close()

            closing = asyncio.create_task(close())
            with pytest.raises((ssl.SSLError, ConnectionError)):
                secure.do_handshake()
            await closing
            secure, theirs = secured(stack)
            secure.setblocking(False)
            handoffs = loop.stats().handoffs
            assert handoffs
            with pytest.raises(ssl.SSLWantReadError):
                secure.do_handshake()
            assert loop.stats().handoffs == handoffs

    hybridexec.run(main())


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
    await writer.drain()
    writer.close()


def by_urllib(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=100) as response:
        return bytes(response.read())


def by_http_client(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        return connection.getresponse().read()


@pytest.mark.parametrize("get", [by_urllib, by_http_client])
def test_a_synchronous_client_is_answered_by_a_server_of_the_same_loop(get: Callable[[int], bytes]) -> None:
    async def main() -> bytes:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            return get(server.sockets[0].getsockname()[1])

    assert hybridexec.run(main()) == b"hello"


def test_input_from_a_terminal_is_a_blocking_call_like_any_other() -> None:
    """The line is typed when another task has gone on."""
    program = """
        import asyncio, sys
        import hybridexec

        over = False

        async def other():
            print("goes on", flush=True)
            while not over:
                await asyncio.sleep(0)

        async def main():
            global over
            task = asyncio.create_task(other())
            assert input("prompt> ") == "a line"
            over = True
            await task

        hybridexec.run(main())
    """
    ours, theirs = pty.openpty()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, ours)
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(program)],
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env=environment(TERM="dumb"),
            )
        )
        os.close(theirs)
        said = b""
        while b"goes on" not in said:
            said += os.read(ours, 1000)
        os.write(ours, b"a line\n")
        while True:
            try:
                said += os.read(ours, 1000)
            except OSError:  # its last process has closed the terminal
                break
        assert process.wait(100) == 0, said.decode()


# ---------------------------------------------------------------- what will not block, though it looks like it


def without_blocking() -> Iterator[tuple[str, Callable[[contextlib.ExitStack], Callable[[], object]]]]:
    arguments = (False,)
    options = {"blocking": False}

    def lock(stack: contextlib.ExitStack) -> Any:
        taken = threading.Lock()
        taken.acquire()
        return taken

    def sock(stack: contextlib.ExitStack) -> socket.socket:
        ours, theirs = socket.socketpair()
        stack.enter_context(theirs)
        return stack.enter_context(ours)

    yield "a lock, by an argument", lambda stack: functools.partial(lambda it: it.acquire(False), lock(stack))
    yield "a lock, by a name", lambda stack: functools.partial(lambda it: it.acquire(blocking=False), lock(stack))
    yield "a lock, for no time", lambda stack: functools.partial(lambda it: it.acquire(timeout=0), lock(stack))
    yield "a lock, unpacked", lambda stack: functools.partial(lambda it: it.acquire(*arguments), lock(stack))
    yield "a lock, unpacked names", lambda stack: functools.partial(lambda it: it.acquire(**options), lock(stack))
    yield "a queue, unpacked", lambda stack: functools.partial(lambda it: it.get(*arguments), queue.SimpleQueue())
    flag = socket.MSG_DONTWAIT
    yield "recv, by a flag", lambda stack: functools.partial(lambda it: it.recv(1, flag), sock(stack))
    yield (
        "recv_into, by a flag",
        lambda stack: functools.partial(lambda it: it.recv_into(bytearray(1), 1, flag), sock(stack)),
    )
    yield "recvfrom, by a flag", lambda stack: functools.partial(lambda it: it.recvfrom(1, flag), sock(stack))
    yield "recvmsg, by a flag", lambda stack: functools.partial(lambda it: it.recvmsg(1, 0, flag), sock(stack))


def of_the_wrong_type() -> Iterator[tuple[str, Callable[[contextlib.ExitStack], Callable[[], object]]]]:
    wrong: Any = object()
    lock, rlock = type(threading.Lock()), type(threading.RLock())
    calls: list[tuple[str, Callable[[], object]]] = [
        ("send", lambda: socket.socket.send(wrong, b"x")),
        ("recv", lambda: socket.socket.recv(wrong, 1)),
        ("lock", lambda: lock.acquire(wrong)),
        ("lock of nothing", lambda: lock.acquire()),  # type: ignore[call-arg]
        ("rlock", lambda: rlock.acquire(wrong)),
        ("queue", lambda: queue.SimpleQueue.get(wrong)),
        ("sqlite3", lambda: sqlite3.Connection.execute(wrong, "SELECT 1")),
        ("sleep", lambda: time.sleep(wrong)),
        ("sleep of less than nothing", lambda: time.sleep(-1)),
        ("read", lambda: os.read(wrong, 1)),
        ("read of a closed file", lambda: os.read(-1, 1)),
    ]
    for name, call in calls:
        yield name, functools.partial(lambda call, stack: call, call)


def outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"


@pytest.mark.parametrize("mode", ["handoff", "raise"])
@pytest.mark.parametrize(
    "make",
    [pytest.param(make, id=name) for cases in (without_blocking, of_the_wrong_type) for name, make in cases()],
)
def test_what_does_not_block_does_what_it_always_does(make: Callable[[Any], Callable[[], object]], mode: str) -> None:
    """Above all it is no error of ours, and no block that anybody is told of."""
    with contextlib.ExitStack() as stack:
        call = make(stack)
        expected = outcome(call)
        # The threshold is long: what the mood of the machine makes slow is no block, either.
        scene = play(functools.partial(outcome, call), mode=mode, threshold=60)
        assert scene.error is None
        assert scene.result == expected
        assert not scene.recorder.of(UpcallKind.BLOCKED)
        assert scene.stayed, (scene.order, scene.stats)


# ---------------------------------------------------------------- sqlite3, which calls back

SLOW = """
    SELECT 'first' UNION ALL SELECT 'second' FROM (
        WITH RECURSIVE counted(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM counted WHERE x < 500000)
        SELECT count(*) FROM counted
    )
"""
"""Two rows; to find the second one takes long enough for the loop to leave."""


@pytest.mark.parametrize("by", ["connection's rows", "cursor's rows", "text", "function", "trace"])
def test_what_sqlite3_calls_back_runs_with_the_loop(by: str) -> None:
    held: list[bool] = []

    def called(*arguments: Any) -> Any:
        held.append(holds(running_loop()))
        return arguments[-1]

    with contextlib.closing(sqlite3.connect(":memory:", check_same_thread=False)) as connection:
        cursor = connection.cursor()

        def queries() -> None:
            sql = SLOW
            if by == "connection's rows":
                connection.row_factory = called
            elif by == "cursor's rows":
                cursor.row_factory = called
            elif by == "text":
                connection.text_factory = called
            elif by == "function":
                connection.create_function("called", 1, called)
                sql = f"SELECT called(1) UNION ALL {SLOW} UNION ALL SELECT called(2)"
            else:
                connection.set_trace_callback(called)
            chosen = cursor if by == "cursor's rows" else connection.execute("SELECT 1")
            chosen.execute(sql)
            chosen.fetchall()

        scene = play(fresh(queries))
        assert scene.error is None
        assert held
        assert all(held)


# ---------------------------------------------------------------- names


def test_a_name_that_its_module_does_not_want_to_give_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that loads its parts late, and fails to: that is nobody's business but of who asks for them."""
    (tmp_path / "lazy_driver.py").write_text(
        "def __getattr__(name):\n    raise ImportError('its C library is not installed')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    hybridexec.register_blocking("lazy_driver.connect")
    recorder = Recorder()

    async def main() -> None:
        import lazy_driver  # type: ignore[import-not-found]

        with pytest.raises(ImportError, match="its C library"):
            lazy_driver.connect()
        time.sleep(0.002)

    try:
        hybridexec.run(main(), instruments=[recorder])
        hybridexec.run(main(), instruments=[recorder])
    finally:
        sys.modules.pop("lazy_driver", None)
    assert [upcall.callable for upcall in recorder.of(UpcallKind.BLOCKED)].count("time.sleep") == 2


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="Linux has it")
def test_a_name_is_found_that_was_looked_up_while_its_module_was_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each new call site has the names looked up, if there is a new module; this one has them in its own middle."""
    (tmp_path / "late_driver.py").write_text("import os\nrepr(os)\nwait = os.eventfd_read\n")
    monkeypatch.syspath_prepend(tmp_path)
    hybridexec.register_blocking("late_driver.wait", will_block=lambda fd: True)
    fd = os.eventfd(0)

    def waits() -> int:
        import late_driver  # type: ignore[import-not-found]

        return int(late_driver.wait(fd))

    try:
        scene = play(fresh(waits), functools.partial(os.eventfd_write, fd, 7))
    finally:
        sys.modules.pop("late_driver", None)
        os.close(fd)
    assert scene.moved
    assert scene.result == 7
    assert scene.recorder.detections() == [Detection.DECLARED]


class Lazy:
    """Stands for another object, which it makes when anything is asked of it, as lazy settings and proxies do."""

    made = 0

    def __getattribute__(self, name: str) -> Any:
        return super().__getattribute__(name)  # a C method, bound to this object

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        type(self).made += 1
        raise RuntimeError("too early")

    def __call__(self) -> int:
        return 7


def test_an_object_that_stands_for_another_is_not_asked_what_it_is() -> None:
    """Django's settings may not be asked before they are configured; and the detector looks at whatever is called."""
    lazy = Lazy()
    lazy_length = functools.partial(lazy)

    async def main() -> list[int]:
        return [lazy(), lazy.__call__(), lazy_length()]

    assert hybridexec.run(main()) == [7, 7, 7]
    assert Lazy.made == 0
