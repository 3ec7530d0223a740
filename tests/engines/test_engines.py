"""What is particular to an engine: which one is chosen, and what uvloop's poll means for a program.

All that the engines have in common is in the other files, which ``pytest --engine uvloop`` runs on that one.
"""

from __future__ import annotations

import _thread
import ast
import asyncio
import contextlib
import gc
import inspect
import logging
import os
import random
import signal
import socket
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator
from time import monotonic
from typing import Any, Literal

import pytest
from helpers import ENGINES, LIBC, Recorder, fresh, here, pipe, running_loop, start
from steps import declared, discovered

import hybridexec
from hybridexec import BlockingCallError, Detection, HybridLoop, Upcall, UpcallKind, _core
from hybridexec.protocol.lwp import IN_POLL

pytestmark = pytest.mark.differs_by_engine

pytest.importorskip("uvloop")


def engine_of(loop: HybridLoop) -> str:
    """The module that a loop's engine comes from."""
    return next(base.__module__ for base in type(loop).__mro__ if base.__module__.startswith("hybridexec.engines."))


def in_thread[T](function: Callable[[], T]) -> T:
    """Call a function in a thread of its own, to its end."""
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def run_uv(main: Coroutine[Any, Any, Any], **options: Any) -> Any:
    """Run a coroutine on uvloop."""
    return hybridexec.run(main, engine="uvloop", **options)


def names_of(classes: list[type]) -> set[str]:
    """What classes define, and what is set when they are made."""
    names = set().union(*map(vars, classes))
    makers = [vars(cls).get(name) for cls in classes for name in ("__init__", "_assemble")]
    for made in filter(inspect.isfunction, makers):
        tree = ast.parse(textwrap.dedent(inspect.getsource(made)))
        names |= {
            node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and type(node.ctx) is ast.Store
        }
    return names


async def feed(protocol: Callable[[], asyncio.Protocol]) -> None:
    """Let a protocol receive one byte."""
    ours, theirs = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(protocol, sock=ours)
    with theirs:
        theirs.send(b"x")
        while not transport.is_closing():
            await asyncio.sleep(0.001)


class Receives(asyncio.Protocol):
    """Calls a function when something is received, then closes."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Call the function."""
        try:
            self.function()
        finally:
            self.transport.close()


# ---------------------------------------------------------------- which engine


@pytest.fixture
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment says nothing."""
    monkeypatch.delenv("HYBRIDEXEC_ENGINE", raising=False)


def made() -> str:
    """The engine of a new loop that nothing is said about."""
    loop = hybridexec.new_event_loop()
    loop.close()
    return engine_of(loop)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_private_to_the_loop_hides_nothing_of_its_engine(engine: Any) -> None:
    loop = hybridexec.new_event_loop(engine=engine)
    loop.close()
    classes = type(loop).__mro__
    border = next(place for place, cls in enumerate(classes) if cls.__module__.startswith("hybridexec.engines."))
    ours, theirs = names_of([*classes[:border]]), names_of([*classes[border:]])
    assert {"_turns", "_carrying", "_failure"} <= ours
    assert "_ready" in theirs
    hidden = {name for name in ours & theirs if name.startswith("_") and not name.startswith("__")}
    known = {"_process_self_data", "_stopping"}  # which calls its
    assert hidden == (known | {"_carrying"} if engine == "native" else known)  # whose core has a place for it


@pytest.mark.parametrize("engine", ENGINES)
def test_the_coroutine_functions_of_the_engine_are_the_loop_s(engine: Any) -> None:
    """unittest.mock asks, and puts in its place what cannot be awaited if it is none."""
    if engine == "uvloop":
        real: type = pytest.importorskip("uvloop").Loop
    else:
        real = asyncio.SelectorEventLoop
    loop = hybridexec.new_event_loop(engine=engine)
    loop.close()
    names = [name for name in dir(asyncio.AbstractEventLoop) if inspect.iscoroutinefunction(getattr(real, name, None))]
    assert "create_connection" in names
    assert [name for name in names if not inspect.iscoroutinefunction(getattr(loop, name))] == []


def test_auto_is_the_native_engine_on_every_thread_where_it_is_compiled(no_choice: None) -> None:
    name = "hybridexec.engines.selector" if _core.compiled is None else "hybridexec.engines.native"
    assert made() == name
    assert in_thread(made) == name


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_has_all_of_asyncio_s_methods(engine: Any) -> None:
    loop = hybridexec.new_event_loop(engine=engine)
    loop.close()
    abstract = asyncio.AbstractEventLoop
    names = [name for name in vars(abstract) if not name.startswith("_") and callable(getattr(abstract, name))]
    assert "sock_sendto" in names
    assert [name for name in names if getattr(type(loop), name, None) is getattr(abstract, name)] == []


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("debug", [False, True])
def test_handles_look_like_asyncio_s(engine: Any, debug: bool) -> None:
    loop = hybridexec.new_event_loop(engine=engine)
    loop.set_debug(debug)
    reader, writer = os.pipe()
    for handle, kind in (
        (loop.call_soon(print), "Handle"),
        (loop.call_later(1, print), "TimerHandle"),
        (loop._add_reader(reader, print), "Handle"),
    ):
        assert repr(handle).startswith((f"<{kind} print()", f"<{kind} when="))
    loop.remove_reader(reader)
    loop.close()
    os.close(reader)
    os.close(writer)


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDEXEC_ENGINE", "uvloop")
    assert made() == "hybridexec.engines.uv"
    monkeypatch.setenv("HYBRIDEXEC_ENGINE", "selector")
    assert in_thread(made) == "hybridexec.engines.selector"


def test_every_loop_is_a_hybrid_loop() -> None:
    engine: Any
    for engine in ENGINES:
        for make in (HybridLoop, hybridexec.new_event_loop):
            loop = make(engine=engine)
            loop.close()
            assert isinstance(loop, HybridLoop)
            assert isinstance(loop, asyncio.AbstractEventLoop)
            assert type(loop).__name__ == "HybridLoop"


def test_a_class_of_its_own_runs_on_every_engine() -> None:
    class Own(HybridLoop):
        answer = 42

    for engine in ENGINES:
        loop = Own(engine=engine)
        assert isinstance(loop, Own)
        assert loop.run_until_complete(asyncio.sleep(0, loop.answer)) == 42
        loop.close()


def test_without_uvloop() -> None:
    process = start(
        """
        import asyncio, sys, threading
        sys.modules["uvloop"] = None
        import hybridexec

        def run():
            hybridexec.run(asyncio.sleep(0))
            print("ran")

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        try:
            hybridexec.new_event_loop(engine="uvloop")
        except RuntimeError as exc:
            print(exc)
        """,
        HYBRIDEXEC_ENGINE="auto",
    )
    output, _ = process.communicate(timeout=100)
    assert output.splitlines()[0] == "ran"
    assert "pip install uvloop" in output


def test_a_loop_that_cannot_be_made_leaves_nothing_open(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(ValueError, match="max_lwps"):
        hybridexec.new_event_loop(engine="uvloop", max_lwps=0)
    gc.collect()
    assert not caplog.records


# ---------------------------------------------------------------- no step on top of the poll


def test_no_step_runs_inside_of_the_poll() -> None:
    inside: dict[str, bool] = {}

    def look(name: str, then: Callable[[], object] = lambda: None) -> None:
        inside[name] = here().handle is IN_POLL
        then()

    async def main() -> None:
        loop = running_loop()
        look("task")
        future = loop.create_future()
        future.add_done_callback(lambda _: look("done callback"))
        loop.call_soon(look, "call_soon")
        loop.call_later(0.001, look, "call_later")
        threading.Thread(target=loop.call_soon_threadsafe, args=(look, "call_soon_threadsafe")).start()
        loop.add_signal_handler(signal.SIGUSR1, look, "signal")
        signal.raise_signal(signal.SIGUSR1)
        with pipe() as (reader, writer):
            loop.add_reader(reader, look, "reader", lambda: loop.remove_reader(reader))
            loop.add_writer(writer, look, "writer", lambda: loop.remove_writer(writer))
            os.write(writer, b"x")
            await feed(lambda: Receives(lambda: look("protocol", lambda: future.set_result(None))))
            await loop.run_in_executor(None, lambda: None)
            look("after the executor")
            ours, theirs = socket.socketpair()
            with ours, theirs:
                ours.setblocking(False)
                loop.call_later(0.001, theirs.send, b"x")
                assert await loop.sock_recv(ours, 1) == b"x"
                look("after sock_recv")
            while len(inside) < 11:
                await asyncio.sleep(0.001)
        loop.remove_signal_handler(signal.SIGUSR1)

    run_uv(main())
    assert inside.pop("protocol")
    assert not any(inside.values()), inside


# ---------------------------------------------------------------- protocols that block


class Releases(Recorder):
    """Ends a block when it is told of: so that it ends only if it was noticed."""

    def __init__(self, writer: int) -> None:
        super().__init__()
        self.writer = writer

    def blocked(self, upcall: Upcall) -> None:
        """Keep it, and end it."""
        self._keep(upcall)
        if upcall.in_poll:
            os.write(self.writer, b"x")


def explicit(reader: int) -> None:
    """Block where the program says so; but the loop does not leave."""
    with hybridexec.blocking():
        asyncio.get_running_loop()
        os.read(reader, 1)


@pytest.mark.parametrize("block", [declared, discovered, explicit])
@pytest.mark.parametrize("mode", ["handoff", "observe"])
def test_a_protocol_that_blocks_is_told_of(block: Callable[[int], None], mode: str) -> None:
    block = fresh(block)
    with pipe() as (reader, writer):
        recorder = Releases(writer)

        async def main() -> int:
            await feed(lambda: Receives(lambda: block(reader)))
            return running_loop().stats().handoffs

        assert run_uv(main(), instruments=[recorder], mode=mode) == 0
    (blocked,) = recorder.of(UpcallKind.BLOCKED)
    (unblocked,) = recorder.of(UpcallKind.UNBLOCKED)
    assert blocked.in_poll
    assert unblocked.in_poll
    assert blocked.detection is Detection[block.__name__.upper()]
    assert blocked.site is not None
    assert blocked.site.function == block.__name__
    assert unblocked.site == blocked.site
    assert unblocked.duration is not None


def test_a_protocol_that_blocks_for_long_though_declared_as_unsure_is_told_of() -> None:
    """What is only marked in a step: there is no mark in a poll."""
    with pipe() as (reader, writer):
        recorder = Releases(writer)
        file = os.fdopen(os.dup(reader), "rb", buffering=0)

        async def main() -> None:
            await feed(lambda: Receives(lambda: os.readv(reader, [bytearray(1)])))

        with file:
            run_uv(main(), instruments=[recorder])
    (blocked,) = recorder.of(UpcallKind.BLOCKED)
    assert blocked.in_poll


def test_mode_raise_in_a_protocol() -> None:
    raised: list[BaseException] = []

    def block(reader: int) -> None:
        try:
            os.read(reader, 1)
        except BlockingCallError as exc:
            raised.append(exc)

    async def main() -> None:
        with pipe() as (reader, _):
            await feed(lambda: Receives(lambda: block(reader)))

    run_uv(main(), mode="raise")
    assert "os.read" in str(raised[0]) or "posix.read" in str(raised[0])


def test_what_a_protocol_leaves_behind_concerns_no_step() -> None:
    """An RLock that is held by a protocol binds nobody."""
    lock = threading.RLock()

    async def main() -> None:
        await feed(lambda: Receives(lock.acquire))
        await asyncio.sleep(0)
        assert not running_loop()._reactions.affinity.bound
        lock.release()

    run_uv(main())


def test_an_exception_that_ends_the_loop_comes_out_of_a_poll_on_a_spare() -> None:
    """uvloop keeps what a protocol raises to itself; but the exception handler, which is told, may end the loop."""
    home = _thread.get_ident()

    def raises() -> None:
        assert _thread.get_ident() != home
        raise ValueError

    def exits(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        os.write(writer, b"x")
        sys.exit(7)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(exits)
        task = asyncio.create_task(feed(lambda: Receives(raises)))
        await asyncio.sleep(0)
        os.read(reader, 1)
        await task

    with pipe() as (reader, writer), pytest.raises(SystemExit, match="7"):
        run_uv(main())


# ---------------------------------------------------------------- what ends the poll


@pytest.mark.parametrize("name", ["create_connection", "create_unix_connection"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_socket_whose_connection_was_cancelled_is_closed_once(engine: Any, name: str) -> None:
    """Before 0.23 uvloop left the number with the socket, which closed it once more, as another's maybe."""

    async def is_another_s() -> bool:
        """Whether the number was the pipe's, and stayed so: another thread may have it for a moment."""
        connect = getattr(asyncio.get_running_loop(), name)
        one, other = socket.socketpair()
        with other:
            number = one.fileno()
            connecting = asyncio.create_task(connect(asyncio.Protocol, sock=one))
            await asyncio.sleep(0)
            assert connecting.cancel()
            await asyncio.wait([connecting])
            assert connecting.cancelled()
            await asyncio.sleep(0)
            assert one.fileno() == -1
            with pipe() as (read, write):
                one.close()
                os.write(write, b"x")
                assert os.read(read, 1) == b"x"
                return number in (read, write)

    async def main() -> None:
        for _ in range(1000):
            if await is_another_s():
                return
        pytest.fail("the number never was the pipe's")

    hybridexec.run(main(), engine=engine)


def test_a_timer_of_a_protocol_bounds_the_poll_that_is_going_on() -> None:
    async def main() -> None:
        loop = running_loop()
        future = loop.create_future()
        ours, theirs = socket.socketpair()
        with theirs:
            transport, _ = await loop.create_connection(
                lambda: Receives(lambda: loop.call_later(0.002, future.set_result, None)), sock=ours
            )
            theirs.send(b"x")
            await future  # there is no other timer, and nothing else comes
            transport.close()

    run_uv(main())


def test_a_callback_of_a_protocol_ends_the_poll() -> None:
    async def main() -> None:
        loop = running_loop()
        future = loop.create_future()
        ours, theirs = socket.socketpair()
        with theirs:
            await loop.create_connection(lambda: Receives(lambda: loop.call_soon(future.set_result, 1)), sock=ours)
            theirs.send(b"x")
            assert await future == 1

    run_uv(main())


def test_an_earlier_timer_shortens_a_poll_and_cancelled_ones_do_not_matter() -> None:
    order: list[float] = []

    async def main() -> None:
        loop = running_loop()
        delays = [0.030, 0.010, 0.020, 0.0005, 0.0, 0.0301]
        random.shuffle(delays)
        for delay in delays:
            loop.call_later(delay, order.append, delay)
            loop.call_later(delay / 2, order.append, -1).cancel()
            await asyncio.sleep(0)
        last = loop.create_future()
        loop.call_at(loop.time() + 0.05, last.set_result, None)
        began = monotonic()
        await last
        assert monotonic() - began >= 0.05

    run_uv(main())
    # They were not made at the same time; 10 ms apart they are in order all the same.
    assert [delay for delay in order if delay in (0.010, 0.020, 0.030)] == [0.010, 0.020, 0.030]
    assert len(order) == 6


def test_a_signal_handler_of_the_program_may_call_soon() -> None:
    async def main() -> None:
        loop = running_loop()
        future = loop.create_future()
        before = signal.signal(signal.SIGUSR1, lambda *_: loop.call_soon(future.set_result, None))
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        await future
        signal.signal(signal.SIGUSR1, before)

    run_uv(main())


@pytest.mark.parametrize("moves", [False, True])
def test_each_signal_is_handled_once(moves: bool) -> None:
    """Wherever the main thread is just then; uvloop has a wake-up fd of its own in each poll."""
    rounds = 300
    caught: list[int] = []

    async def main() -> None:
        loop = running_loop()
        rng = random.Random(1)
        seen = threading.Event()

        def came() -> None:
            caught.append(1)
            seen.set()

        loop.add_signal_handler(signal.SIGUSR1, came)

        def send() -> None:
            for _ in range(rounds):
                seen.clear()
                for _ in range(rng.randrange(2000)):
                    pass
                os.kill(os.getpid(), signal.SIGUSR1)
                seen.wait()
            loop.call_soon_threadsafe(done.set_result, None)

        async def busy() -> None:
            while True:
                await asyncio.sleep(0.0001)
                if moves:
                    LIBC.usleep(1000)

        done = loop.create_future()
        beside = asyncio.create_task(busy())
        thread = threading.Thread(target=send)
        thread.start()
        await done
        thread.join()
        await asyncio.sleep(0.01)
        beside.cancel()
        loop.remove_signal_handler(signal.SIGUSR1)

    run_uv(main())
    assert len(caught) == rounds


def test_the_program_sees_its_own_signal_handlers() -> None:
    def handler(*_: object) -> None: ...

    before = signal.signal(signal.SIGUSR2, handler)

    async def main() -> None:
        assert signal.getsignal(signal.SIGUSR2) is handler
        assert signal.signal(signal.SIGUSR2, signal.SIG_IGN) is handler
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN
        assert signal.signal(signal.SIGUSR2, handler) is signal.SIG_IGN

    run_uv(main())
    assert signal.signal(signal.SIGUSR2, before) is handler


# ---------------------------------------------------------------- readers


def test_a_reader_is_called_once_for_what_has_come() -> None:
    """Though a step ahead of it blocks, and its file descriptor goes on being ready; and also when it blocks itself."""
    calls = 0
    errors: list[OSError] = []

    async def main() -> None:
        loop = running_loop()
        with pipe() as (blocks, ends), pipe() as (reader, writer):
            os.set_blocking(reader, False)
            done = loop.create_future()

            def reads() -> None:
                nonlocal calls
                calls += 1
                if calls == 2:
                    loop.call_soon(lambda: loop.call_soon(lambda: loop.call_later(0.002, os.write, ends, b"x")))
                    os.read(blocks, 1)
                try:
                    os.read(reader, 1)
                except OSError as exc:
                    errors.append(exc)
                if calls < 3:
                    os.write(writer, b"x")
                elif not done.done():
                    done.set_result(None)

            loop.add_reader(reader, reads)
            os.write(writer, b"x")
            await done
            await asyncio.sleep(0.005)
            assert loop.remove_reader(reader)
            assert not loop.remove_reader(reader)

    run_uv(main())
    assert calls == 3
    assert not errors


# ---------------------------------------------------------------- processes


@pytest.mark.parametrize("where", ["main", "thread"])
@pytest.mark.parametrize("blocked_home", [False, True])
def test_subprocesses(where: str, blocked_home: bool) -> None:
    async def child() -> bytes:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "print(input())", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate(b"hello\n")
        assert process.returncode == 0
        return output

    async def main() -> bytes:
        if not blocked_home:
            return await child()
        task = asyncio.create_task(child())
        with pipe() as (reader, writer):
            task.add_done_callback(lambda _: os.write(writer, b"x"))
            os.read(reader, 1)
        return await task

    output = run_uv(main()) if where == "main" else in_thread(lambda: run_uv(main()))
    assert output == b"hello\n"


def test_what_the_last_step_closes_is_closed_when_run_returns() -> None:
    """uvloop closes in a poll; its own loop ends with one."""
    mine, peer = socket.socketpair()
    peer.settimeout(10)

    async def main() -> None:
        _, writer = await asyncio.open_connection(sock=mine)
        writer.transport.abort()

    with peer, contextlib.closing(hybridexec.new_event_loop(engine="uvloop")) as loop:
        loop.run_until_complete(main())
        assert peer.recv(1) == b""


def test_what_a_step_aborts_is_closed_before_the_steps_that_follow() -> None:
    """uvloop schedules that for itself, and does it in a poll: there is one, however short a time ago the last was."""

    async def main() -> list[int]:
        numbers = []
        for _ in range(20):
            ours, theirs = socket.socketpair()
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
            sock = transport.get_extra_info("socket")
            with theirs:
                transport.abort()
                await asyncio.sleep(0)
                numbers.append(sock.fileno())
        return numbers

    assert run_uv(main()) == [-1] * 20


@pytest.mark.parametrize("action", ["error", "always"])
def test_what_is_open_is_closed_with_the_loop_though_a_warning_of_it_is_an_error(
    action: Literal["error", "always"],
) -> None:
    """uvloop itself closes only what it can warn of, and waits for the rest."""
    told: list[object] = []
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    with theirs, contextlib.closing(hybridexec.new_event_loop(engine="uvloop")) as loop:
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
        loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=ours))
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter(action)
            loop.close()
        assert theirs.recv(1) == b""
    (each,) = told if action == "error" else [warning.message for warning in warned]
    assert isinstance(each, ResourceWarning)
    assert [warning.filename for warning in warned] == ([] if action == "error" else [__file__])


def test_what_the_last_step_has_sent_is_read_to_its_end_when_run_returns() -> None:
    """uvloop polls three times between the last step and the end: one reads, one hears of the end, one closes."""
    lost = []

    class Small(asyncio.BufferedProtocol):
        def get_buffer(self, sizehint: int) -> bytearray:
            return bytearray(50)

        def connection_lost(self, exc: Exception | None) -> None:
            lost.append(exc)

    async def main() -> None:
        ours, theirs = socket.socketpair()
        await asyncio.get_running_loop().create_connection(Small, sock=ours)
        with theirs:
            theirs.send(b"x" * 51)

    with contextlib.closing(hybridexec.new_event_loop(engine="uvloop")) as loop:
        loop.run_until_complete(main())
        assert lost == [None]


@contextlib.contextmanager
def connected(loop: HybridLoop, function: Callable[[Any], object]) -> Iterator[socket.socket]:
    """The other end of a connection whose protocol calls a function with its transport when something is received."""
    ours, theirs = socket.socketpair()
    with theirs:

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def data_received(self, data: bytes) -> None:
                function(self.transport)

        transport, _ = loop.run_until_complete(loop.create_connection(Protocol, sock=ours))
        yield theirs
        transport.abort()


@pytest.mark.parametrize("closes", [False, True])
def test_what_is_ready_when_a_run_begins_comes_before_what_was_received(closes: bool) -> None:
    """As on uvloop, which polls when it has run what is ready; a transport that was closed makes no difference."""
    order: list[str] = []

    async def step() -> None:
        order.append("step")

    with contextlib.closing(hybridexec.new_event_loop(engine="uvloop")) as loop:
        other, end = socket.socketpair()
        with end, connected(loop, lambda _: order.append("received")) as theirs:
            transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=other))
            theirs.send(b"x")
            if closes:
                transport.abort()
            loop.run_until_complete(step())
            transport.abort()
            loop.run_until_complete(asyncio.sleep(0))
    assert order == ["step", "received"]


def test_a_step_that_uvloop_itself_has_made_ready_comes_after_one_look_at_the_descriptors() -> None:
    """As on uvloop; two would have brought the answer to what was received in the first."""
    order: list[str] = []

    class Asks(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            order.append("asked")
            answers.send(b"x")

    async def main() -> None:
        await running_loop().create_connection(Asks, sock=ours)
        order.append("made")
        await asyncio.sleep(0)

    with contextlib.closing(hybridexec.new_event_loop(engine="uvloop")) as loop:
        ours, theirs = socket.socketpair()
        with theirs, connected(loop, lambda _: order.append("answered")) as answers:
            theirs.send(b"x")
            loop.run_until_complete(main())
    assert order == ["asked", "made", "answered"]


def test_the_default_executor_s_threads_are_called_as_uvloop_calls_them() -> None:
    async def main() -> str:
        return await asyncio.to_thread(lambda: threading.current_thread().name)

    assert run_uv(main()).startswith("uvloop")


def test_a_handler_for_the_ends_of_children_is_refused() -> None:
    """With one libuv would not hear any more that a child has ended."""

    async def main() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, print)

    with pytest.raises(RuntimeError, match="SIGCHLD"):
        run_uv(main())


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="asyncio has no child watchers any more")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_asyncio_s_child_watcher_does_no_harm() -> None:
    """As on uvloop, it is told that it is not needed: what it is attached for works all the same."""
    watcher: Any = asyncio.SafeChildWatcher()
    asyncio.set_child_watcher(watcher)

    async def main() -> int:
        with pytest.warns(RuntimeWarning, match="libuv hears of the ends"):
            watcher.attach_loop(asyncio.get_running_loop())
        process = await asyncio.create_subprocess_exec("true")
        return await process.wait()

    try:
        assert run_uv(main()) == 0
        watcher.attach_loop(None)
    finally:
        no_watcher: Any = None
        asyncio.set_child_watcher(no_watcher)


@pytest.mark.parametrize(("name", "args"), [("sock_recv", (1,)), ("sock_sendall", (b"",)), ("sock_accept", ())])
def test_debug_mode_refuses_a_socket_that_blocks(name: str, args: tuple[Any, ...]) -> None:
    async def main() -> None:
        with socket.socket() as sock:
            await getattr(asyncio.get_running_loop(), name)(sock, *args)

    with pytest.raises(ValueError, match="non-blocking"):
        run_uv(main(), debug=True)


@pytest.mark.engine("uvloop", reason="the selector engine accepts all that there are at each look")
@pytest.mark.parametrize("serves_by", ["streams", "protocol"])
def test_the_listen_queue_is_served_in_few_polls_while_each_batch_is_long(serves_by: str) -> None:
    """libuv accepts one connection per look: with one look per batch of steps that is one per batch."""
    count = 64
    accepted = threading.Semaphore(0)

    class Accepts(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.release()
            transport.close()

    async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.release()
        writer.close()

    async def main() -> None:
        loop: Any = running_loop()
        if serves_by == "streams":
            server: Any = await asyncio.start_server(streams, "127.0.0.1", 0, backlog=count)
        else:
            server = await loop.create_server(Accepts, "127.0.0.1", 0, backlog=count)
        address = server.sockets[0].getsockname()
        with contextlib.ExitStack() as stack:
            for _ in range(count):  # all are in the queue before the loop looks the next time
                stack.enter_context(socket.create_connection(address))
            before, served = loop._watching.polls, 0
            while served < count:
                until = monotonic() + 0.02  # a long batch of steps
                while monotonic() < until:
                    pass
                await asyncio.sleep(0)
                while accepted.acquire(blocking=False):
                    served += 1
            assert loop._watching.polls - before <= count / 4
        server.close()

    hybridexec.run(main(), engine="uvloop")


@pytest.mark.engine("uvloop", reason="the selector engine accepts all that there are at each look")
def test_connections_without_end_do_not_keep_the_steps_waiting() -> None:
    """Each connection that a look accepts makes another one: the poll ends all the same."""
    made = []

    async def main() -> None:
        loop: Any = running_loop()
        over = False

        def factory() -> asyncio.Protocol:
            if not over:
                made.append(socket.create_connection(address))
            return asyncio.Protocol()

        server = await loop.create_server(factory, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        made.append(socket.create_connection(address))
        while len(made) < 100:
            await asyncio.sleep(0)
        over = True
        server.close()

    hybridexec.run(main(), engine="uvloop")
    for connection in made:
        connection.close()
