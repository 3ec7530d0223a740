"""What the detector sees: real calls that block on what only another task of the loop releases."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import importlib
import os
import queue
import select
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from helpers import LIBC, Scene, fill, fresh, here, holds, pipe, play, running_loop, start
from steps import play_preempted

import hybridexec
from hybridexec import Detection, UpcallKind
from hybridexec.detector import calls, trap
from hybridexec.detector.sampler import _stands_in

pytestmark = pytest.mark.differs_by_version

type Case = tuple[Callable[[], object], Callable[[], object]]
type Maker = Callable[[contextlib.ExitStack, Path], Case]

# ---------------------------------------------------------------- calls that block: (what blocks, what releases it)


def held_lock(stack: contextlib.ExitStack, folder: Path) -> Case:
    lock = threading.Lock()
    lock.acquire()
    return lock.acquire, lock.release


def held_lock_with_a_timeout(stack: contextlib.ExitStack, folder: Path) -> Case:
    lock = threading.Lock()
    lock.acquire()
    return functools.partial(lock.acquire, timeout=100), lock.release


def with_a_held_lock(stack: contextlib.ExitStack, folder: Path) -> Case:
    lock = threading.Lock()
    lock.acquire()

    def enters() -> None:
        with lock:
            pass

    return fresh(enters), lock.release


def event(stack: contextlib.ExitStack, folder: Path) -> Case:
    happened = threading.Event()
    return happened.wait, happened.set


def condition(stack: contextlib.ExitStack, folder: Path) -> Case:
    changed = threading.Condition()

    def waits() -> None:
        with changed:
            assert changed.wait(100)

    def notifies() -> None:
        with changed:
            changed.notify()

    return waits, notifies


def semaphore(stack: contextlib.ExitStack, folder: Path) -> Case:
    free = threading.Semaphore(0)
    return free.acquire, free.release


def simple_queue(stack: contextlib.ExitStack, folder: Path) -> Case:
    things: queue.SimpleQueue[int] = queue.SimpleQueue()
    return things.get, functools.partial(things.put, 1)


def empty_queue(stack: contextlib.ExitStack, folder: Path) -> Case:
    things: queue.Queue[int] = queue.Queue()
    return things.get, functools.partial(things.put, 1)


def thread(stack: contextlib.ExitStack, folder: Path) -> Case:
    over = threading.Event()
    waiting = threading.Thread(target=over.wait)
    waiting.start()
    return waiting.join, over.set


def future_of_a_thread(stack: contextlib.ExitStack, folder: Path) -> Case:
    over = threading.Event()
    pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1))
    return pool.submit(over.wait).result, over.set


def pipe_read(stack: contextlib.ExitStack, folder: Path) -> Case:
    reader, writer = stack.enter_context(pipe())
    return functools.partial(os.read, reader, 1), functools.partial(os.write, writer, b"x")


def full_pipe(stack: contextlib.ExitStack, folder: Path) -> Case:
    reader, writer = stack.enter_context(pipe())
    fill(writer)
    return functools.partial(os.write, writer, b"x" * 8192), functools.partial(os.read, reader, 65536)


def file_of_a_pipe(stack: contextlib.ExitStack, folder: Path) -> Case:
    reader, writer = stack.enter_context(pipe())
    file = stack.enter_context(os.fdopen(reader, "rb", closefd=False))
    return file.readline, functools.partial(os.write, writer, b"line\n")


def fifo_open(stack: contextlib.ExitStack, folder: Path) -> Case:
    path = folder / "fifo"
    os.mkfifo(path)

    def opens(mode: str) -> None:
        open(path, mode).close()

    return functools.partial(opens, "rb"), functools.partial(opens, "wb")


def sockets(stack: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    return stack.enter_context(ours), stack.enter_context(theirs)


def socket_receive(stack: contextlib.ExitStack, folder: Path) -> Case:
    ours, theirs = sockets(stack)
    return functools.partial(ours.recv, 1), functools.partial(theirs.send, b"x")


def socket_receive_with_a_timeout(stack: contextlib.ExitStack, folder: Path) -> Case:
    ours, theirs = sockets(stack)
    ours.settimeout(50)
    return functools.partial(ours.recv_into, bytearray(1)), functools.partial(theirs.send, b"x")


def socket_send(stack: contextlib.ExitStack, folder: Path) -> Case:
    ours, theirs = sockets(stack)
    filled = fill(ours.fileno())

    def reads() -> None:
        left = filled
        while left > 0:
            left -= len(theirs.recv(1 << 20))

    return functools.partial(ours.sendall, b"x" * 100), reads


def socket_accept(stack: contextlib.ExitStack, folder: Path) -> Case:
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

    def accepts() -> None:
        server.accept()[0].close()

    return accepts, lambda: socket.create_connection(server.getsockname()).close()


def socket_file(stack: contextlib.ExitStack, folder: Path) -> Case:
    ours, theirs = sockets(stack)
    file = stack.enter_context(ours.makefile("rb"))
    return functools.partial(next, file), functools.partial(theirs.send, b"line\n")


def select_call(stack: contextlib.ExitStack, folder: Path) -> Case:
    reader, writer = stack.enter_context(pipe())
    return functools.partial(select.select, [reader], [], []), functools.partial(os.write, writer, b"x")


def poll_call(stack: contextlib.ExitStack, folder: Path) -> Case:
    reader, writer = stack.enter_context(pipe())
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    return poll.poll, functools.partial(os.write, writer, b"x")


def epoll_call(stack: contextlib.ExitStack, folder: Path) -> Case:
    reader, writer = stack.enter_context(pipe())
    epoll = stack.enter_context(select.epoll())
    epoll.register(reader, select.EPOLLIN)
    return epoll.poll, functools.partial(os.write, writer, b"x")


def child(stack: contextlib.ExitStack) -> subprocess.Popen[bytes]:
    return stack.enter_context(subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE))


def subprocess_wait(stack: contextlib.ExitStack, folder: Path) -> Case:
    process = child(stack)
    assert process.stdin is not None
    return process.wait, process.stdin.close


def subprocess_output(stack: contextlib.ExitStack, folder: Path) -> Case:
    process = child(stack)
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdout.read, process.stdin.close


def waitpid(stack: contextlib.ExitStack, folder: Path) -> Case:
    process = child(stack)
    assert process.stdin is not None

    def waits() -> None:
        _, status = os.waitpid(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)

    return waits, process.stdin.close


def locked_database(stack: contextlib.ExitStack, folder: Path) -> Case:
    def connect() -> sqlite3.Connection:
        made = sqlite3.connect(folder / "database", timeout=100, isolation_level=None, check_same_thread=False)
        return stack.enter_context(contextlib.closing(made))

    first, second = connect(), connect()
    first.execute("CREATE TABLE things (number)")
    first.execute("BEGIN IMMEDIATE")
    return functools.partial(second.execute, "INSERT INTO things VALUES (1)"), first.commit


def undeclared(stack: contextlib.ExitStack, folder: Path) -> Case:
    reader, writer = stack.enter_context(pipe())
    buffer = bytes(1)

    def reads() -> int:
        return int(LIBC.read(reader, buffer, 1))

    return fresh(reads), functools.partial(os.write, writer, b"x")


CASES: list[Maker] = [
    held_lock,
    held_lock_with_a_timeout,
    with_a_held_lock,
    event,
    condition,
    semaphore,
    simple_queue,
    empty_queue,
    thread,
    future_of_a_thread,
    pipe_read,
    full_pipe,
    file_of_a_pipe,
    fifo_open,
    socket_receive,
    socket_receive_with_a_timeout,
    socket_send,
    socket_accept,
    socket_file,
    select_call,
    poll_call,
    epoll_call,
    subprocess_wait,
    subprocess_output,
    waitpid,
    locked_database,
    undeclared,
]


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_the_loop_leaves_a_step_that_blocks(make: Maker, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        blocks, releases = make(stack, tmp_path)
        scene = play(blocks, releases)
        assert scene.error is None
        assert scene.moved
        assert scene.held


@pytest.mark.parametrize("make", [held_lock, pipe_read, socket_receive, undeclared], ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    "where", ["call_soon", "call_later", "reader", "finally", "generator", "key", "async generator", "del"]
)
def test_wherever_it_stands(make: Maker, where: str, tmp_path: Path) -> None:
    """In a callback of the loop's, in a generator, in what C code calls, in a finalizer."""
    with contextlib.ExitStack() as stack:
        blocks, releases = make(stack, tmp_path)
        order: list[str] = []

        def body() -> None:
            order.append("blocks")
            blocks()
            assert holds(asyncio.get_running_loop())
            order.append("returns")

        class Dies:
            def __del__(self) -> None:
                body()

        async def agenerates() -> AsyncIterator[int]:
            body()
            yield 1

        def generates() -> Iterator[int]:
            body()
            yield 1

        async def main() -> None:
            loop = asyncio.get_running_loop()
            done = asyncio.Event()

            def last() -> None:
                body()
                done.set()

            def release() -> None:
                order.append("releases")
                releases()

            async def step() -> None:
                if where == "finally":
                    try:
                        raise LookupError
                    except LookupError:
                        pass
                    finally:
                        body()
                elif where == "generator":
                    assert list(generates()) == [1]
                elif where == "key":

                    def key(number: int) -> int:
                        body()
                        return number

                    assert sorted([1], key=key) == [1]
                elif where == "async generator":
                    assert [number async for number in agenerates()] == [1]
                elif where == "del":
                    dies = Dies()
                    del dies
                done.set()

            if where == "call_soon":
                loop.call_soon(last)
                loop.call_soon(release)
            elif where == "call_later":
                loop.call_later(0, last)
                loop.call_later(0, release)
            elif where == "reader":
                reader, writer = stack.enter_context(pipe())
                os.write(writer, b"x")

                def readable() -> None:
                    loop.remove_reader(reader)
                    loop.call_soon(release)
                    last()

                loop.add_reader(reader, readable)
            else:
                task = asyncio.create_task(step())
                loop.call_soon(release)
                await task
            await done.wait()

        hybridexec.run(main())
        assert order == ["blocks", "releases", "returns"]


@pytest.mark.parametrize("late", [False, True], ids=["at once", "by a timer"])
@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
def test_a_c_function_that_is_a_callback_itself(late: bool, debug: bool) -> None:
    with pipe() as (reader, writer):

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.slow_callback_duration = 60
            done = asyncio.Event()
            if late:
                loop.call_later(0, os.read, reader, 1)
            else:
                loop.call_soon(os.read, reader, 1)
            loop.call_later(0.001, os.write, writer, b"x")
            loop.call_later(0.002, done.set)
            await done.wait()

        hybridexec.run(main(), debug=debug)


# ---------------------------------------------------------------- calls that do not block


def quick_calls() -> dict[str, Callable[[contextlib.ExitStack], object]]:
    def nonblocking_receive(stack: contextlib.ExitStack) -> object:
        ours, theirs = sockets(stack)
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(1)
        theirs.send(b"x")
        return ours.recv(1)

    def ready_receive(stack: contextlib.ExitStack) -> object:
        ours, theirs = sockets(stack)
        theirs.send(b"x")
        return ours.recv(1)

    def free_lock(stack: contextlib.ExitStack) -> object:
        lock = threading.Lock()
        with lock:
            assert not lock.acquire(blocking=False)
        return lock.acquire()

    def filled_queue(stack: contextlib.ExitStack) -> object:
        things: queue.SimpleQueue[int] = queue.SimpleQueue()
        things.put(1)
        things.get()
        with pytest.raises(queue.Empty):
            things.get(block=False)
        return None

    def polls(stack: contextlib.ExitStack) -> object:
        return select.select([], [], [], 0)

    return {
        "a sleep of nothing": lambda stack: time.sleep(0),
        "a socket that does not block": nonblocking_receive,
        "a socket with data": ready_receive,
        "a free lock": free_lock,
        "a queue that is not empty": filled_queue,
        "a poll": polls,
        "python": lambda stack: sum(range(1000)),
    }


@pytest.mark.parametrize("what", quick_calls())
def test_the_loop_stays_where_nothing_blocks(what: str) -> None:
    with contextlib.ExitStack() as stack:
        # The threshold is long: what the mood of the machine makes slow is not retaken.
        quick = quick_calls()[what]
        scene = play(lambda: quick(stack), threshold=60)
        assert scene.stayed
        assert scene.stats.handoffs == 0
        assert scene.stats.upcalls[UpcallKind.BLOCKED] == 0


# ---------------------------------------------------------------- who is called, and how it was noticed


def detected(scene: Scene) -> tuple[str | None, Detection | None]:
    (upcall,) = scene.recorder.of(UpcallKind.BLOCKED, "blocker")
    return upcall.callable, upcall.detection


def test_a_name_imported_from_its_module_is_seen() -> None:
    from time import sleep as snooze

    assert detected(play(lambda: snooze(0.001))) == ("time.sleep", Detection.DECLARED)


def test_a_method_kept_in_a_variable_is_seen(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        ours, theirs = sockets(stack)
        receive = ours.recv
        scene = play(lambda: receive(1), functools.partial(theirs.send, b"x"))
        assert detected(scene) == ("_socket.socket.recv", Detection.DECLARED)


def test_a_learned_site_is_declared_from_then_on() -> None:
    with pipe() as (reader, writer):

        def reads() -> int:
            return int(LIBC.read(reader, bytes(1), 1))

        reads = fresh(reads)
        release = functools.partial(os.write, writer, b"x")
        found = [detected(play(reads, release))[1] for _ in range(3)]
        assert found == [Detection.DISCOVERED, Detection.DECLARED, Detection.DECLARED]


def test_what_a_learned_callable_calls_back_is_discovered_in_its_turn() -> None:
    """A site that called C code which blocked, and is marked from then on, calls C code that calls Python."""

    def calls(function: Callable[[], object]) -> None:
        function()

    calls = fresh(calls)

    def reads(reader: int) -> None:
        LIBC.read(reader, bytes(1), 1)

    async def main() -> None:
        for make in (lambda fd: functools.partial(LIBC.read, fd, bytes(1), 1), lambda fd: functools.partial(reads, fd)):
            with pipe() as (reader, writer):

                async def release(writer: int = writer) -> None:
                    os.write(writer, b"x")

                task = asyncio.create_task(release())
                calls(make(reader))
                assert holds(running_loop())
                await task
            calls(functools.partial(len, ""))  # quick: from now on it is only marked

    hybridexec.run(main())


def test_a_third_party_callable_is_declared_before_its_module_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that offers libc's ``read`` stands in for a driver that is imported late."""
    (tmp_path / "late_driver.py").write_text("import ctypes\nread = ctypes.CDLL(None).read\n")
    monkeypatch.syspath_prepend(tmp_path)
    hybridexec.register_blocking("late_driver.read", will_block=lambda argument: True)
    try:
        with pipe() as (reader, writer):

            def reads() -> int:
                return int(importlib.import_module("late_driver").read(reader, bytes(1), 1))

            scene = play(fresh(reads), functools.partial(os.write, writer, b"x"))
            assert scene.moved
            assert detected(scene)[1] is Detection.DECLARED
    finally:
        sys.modules.pop("late_driver", None)


@pytest.mark.parametrize("error", [ConnectionResetError, TimeoutError])
def test_an_exception_of_a_blocking_call_arrives_with_its_traceback(error: type[OSError]) -> None:
    with contextlib.ExitStack() as stack:
        if error is TimeoutError:
            ours, _ = sockets(stack)
            ours.settimeout(0.01)
            releases: Callable[[], object] = lambda: None  # noqa: E731
        else:
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            ours = stack.enter_context(socket.create_connection(server.getsockname()))
            theirs, _ = server.accept()
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            releases = theirs.close
        scene = play(lambda: ours.recv(1), releases)
        assert scene.moved
        assert isinstance(scene.error, error)
        names = []
        traceback = scene.error.__traceback__
        while traceback is not None:
            names.append(traceback.tb_frame.f_code.co_name)
            traceback = traceback.tb_next
        assert names == ["blocker", "<lambda>"]


# ---------------------------------------------------------------- preemption


def test_a_busy_step_is_preempted_for_another_that_ends_it() -> None:
    recorder = play_preempted()
    assert recorder.of(UpcallKind.PREEMPTED, "spins")
    (upcall, *_) = recorder.of(UpcallKind.PREEMPTED)
    assert upcall.site is not None
    assert upcall.site.function.endswith("spins")
    assert upcall.detection is Detection.PREEMPTED


def test_a_pinned_step_is_not_preempted() -> None:
    order: list[str] = []

    async def spins() -> None:
        with hybridexec.pinned():
            until = time.monotonic() + 0.06
            while time.monotonic() < until:
                pass
            order.append("spins")

    async def other() -> None:
        order.append("other")

    async def main() -> None:
        await asyncio.gather(spins(), other())
        assert running_loop().stats().upcalls[UpcallKind.PREEMPTED] == 0

    hybridexec.run(main(), preempt=0.005)
    assert order == ["spins", "other"]


def test_a_call_that_blocks_after_its_slice_is_over_is_found_all_the_same() -> None:
    with pipe() as (reader, writer):

        def reads() -> int:
            return int(LIBC.read(reader, bytes(1), 1))

        scene = play(fresh(reads), functools.partial(os.write, writer, b"x"), preempt=0.005, threshold=0.02)
        assert scene.moved


# ---------------------------------------------------------------- standard streams

STREAMS = """
    import asyncio, os, sys
    import hybridexec

    async def blocks():
        {block}

    async def other():
        print("goes on", file=sys.stderr, flush=True)
        while not over:
            await asyncio.sleep(0)

    over = False

    async def main():
        global over
        task = asyncio.create_task(other())
        await blocks()
        over = True
        await task

    hybridexec.run(main())
"""


@pytest.mark.parametrize("block", ["assert input() == 'a line'", "assert sys.stdin.readline() == 'a line\\n'"])
def test_reading_standard_input_is_a_blocking_call_like_any_other(block: str) -> None:
    """The line is given only when another task has gone on."""
    with start(STREAMS.format(block=block)) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "goes on\n"
        rest, _ = process.communicate("a line\n", timeout=100)
    assert process.returncode == 0, rest


def test_writing_to_a_full_pipe_is_a_blocking_call_like_any_other() -> None:
    """Nobody reads standard output before another task has gone on."""
    reader, writer = os.pipe()
    fill(writer)
    program = STREAMS.format(block="os.set_blocking(1, True); print('x' * 100_000, flush=True)")
    with (
        open(reader, "rb") as out,
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)], stdout=writer, stderr=subprocess.PIPE
        ) as process,
    ):
        os.close(writer)
        assert process.stderr is not None
        assert process.stderr.readline() == b"goes on\n"
        assert out.read().endswith(b"x" * 100_000 + b"\n")
        assert process.wait(100) == 0


# ---------------------------------------------------------------- traps


def test_a_trap_does_not_take_the_place_of_one_that_nobody_knows_of() -> None:
    """The sampler decides on what it has seen; meanwhile the LWP may have armed one of its own."""

    async def main() -> None:
        lwp = here()
        assert lwp.handle is not None
        own, late = (trap.Trap(lwp, lwp.handle, (), None) for _ in range(2))
        with hybridexec.blocking():  # where no trap springs
            assert trap.arm(own)
            assert not trap.arm(late)
            trap.disarm(late)
            assert lwp.watch.trap is own
            assert trap.arm(late, own)
            trap.disarm(own)
            assert lwp.watch.trap is late
            trap.disarm(late)
            assert lwp.watch.trap is None

    hybridexec.run(main())


def test_what_runs_while_a_trap_is_taken_away_is_not_trapped() -> None:
    """A finalizer, say: it would wait for the lock that its own thread holds."""
    looked: list[str] = []

    class Looked(trap.Trap):
        """One whose LWP is asked for by Python code that is not the package's."""

        def __getattribute__(self, name: str) -> Any:
            if name == "lwp":
                looked.append(name)
            return super().__getattribute__(name)

    async def main() -> None:
        lwp = running_loop()._carrying.holder
        assert lwp is not None
        assert lwp.handle is not None
        call = calls.Call(calls.Site(main.__code__, 0), None, None, Detection.DISCOVERED)
        armed = Looked(lwp, lwp.handle, (), call)
        assert trap.arm(armed)
        trap.disarm(armed)
        assert lwp.watch.trap is None

    hybridexec.run(main())
    assert looked


# ---------------------------------------------------------------- what stands in a call


def test_a_thread_in_the_packages_own_code_stands_in_the_call_only_if_that_is_on_the_way_to_it() -> None:
    """C code calls back into the program, whose calls go through the detector: that is Python code like any other."""
    seen: list[bool] = []
    callers: list[FrameType] = []

    def look(innermost: FrameType) -> None:
        site = calls.Site(callers[0].f_code, callers[0].f_lasti)
        seen.append(_stands_in(calls.Call(site, None, None, Detection.DECLARED), innermost))

    package = dict[str, Any](look=look, sys=sys)
    exec(compile("def on_call():\n look(sys._getframe())", calls.__file__, "exec"), package)

    def called(_: int) -> None:
        look(sys._getframe())
        package["on_call"]()

    def makes_the_call() -> None:
        callers.append(sys._getframe())
        package["on_call"]()  # on the way to the call, and back from it
        next(map(called, [0]))
        look(sys._getframe())

    makes_the_call()
    assert seen == [True, False, False, True]


def test_asyncio_copies_the_state_of_a_future_in_one_step() -> None:
    """Somebody has its lock when asyncio looks, and the last condition that was entered there has blocked for long."""
    enters = threading.Condition.__enter__.__code__
    future: concurrent.futures.Future[int] = concurrent.futures.Future()

    def keeps(loop: hybridexec.HybridLoop) -> None:
        carrying = loop._carrying
        with future._condition:
            future.set_result(1)  # whereupon asyncio looks
            while True:
                holder = carrying.holder
                call = None if holder is None else holder.watch.call
                marked = call is not None and call.code is enters
                if marked or carrying.detached:
                    return

    async def main() -> int:
        loop = running_loop()
        with threading.Condition():
            pass
        for site in list(calls.sites.values()):
            if site.code() is enters:
                site.slow = True
        chained = asyncio.wrap_future(future)
        thread = threading.Thread(target=keeps, args=[loop])
        thread.start()
        assert await chained == 1
        handoffs = loop.stats().handoffs
        thread.join()
        return handoffs

    assert hybridexec.run(main(), threshold=60) == 0
