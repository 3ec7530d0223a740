"""Moves that an exception breaks off: the run ends with it, and nobody is left waiting.

``tests/injecting`` raises in every statement, ``test_protocol.py`` at every access of the protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from helpers import AUTO, LIBC, ROOT, lwps, pipe, running_loop

import hybridexec
from hybridexec.detector import tool
from hybridexec.detector.sampler import Sampler
from hybridexec.loop.turns import Turns
from hybridexec.platform import threads
from hybridexec.platform.threads import OsThread
from hybridexec.protocol.carrying import Carrying
from hybridexec.protocol.lwp import LWP
from hybridexec.reactions.reactions import Reactions
from hybridexec.signals.mailbox import _Letter

pytestmark = [
    pytest.mark.differs_by_engine,
    pytest.mark.differs_by_version,
    # What ends a thread before it has begun is told by the interpreter, maybe when the next test has begun.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def raises_once(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Has a method raise a MemoryError the first time that it is called; it returns where that was."""

    def patch(kind: type, name: str, when: Callable[..., bool] = lambda *_: True) -> list[str]:
        method = getattr(kind, name)
        raised: list[str] = []

        def raising(self: Any, *args: Any, **options: Any) -> Any:
            if not raised and when(self, *args):
                raised.append(threading.current_thread().name)
                raise MemoryError("injected")
            return method(self, *args, **options)

        monkeypatch.setattr(kind, name, raising)
        return raised

    return patch


async def passes_a_lock(blocks: Callable[[threading.Lock], object]) -> list[str]:
    """A step blocks on what only another step of the loop can release."""
    order: list[str] = []
    lock = threading.Lock()
    lock.acquire()

    async def wants() -> None:
        blocks(lock)
        order.append("has it")

    async def releases() -> None:
        order.append("releases")
        lock.release()

    await asyncio.gather(wants(), releases())
    return order


def test_a_spare_that_ends_by_an_exception_ends_the_run_with_it(raises_once: Callable[..., list[str]]) -> None:
    """It has just taken the loop, and would hold it for ever."""
    raised = raises_once(Carrying, "resume", lambda carrying, lwp: lwp is not carrying.home)
    with pytest.raises(MemoryError, match="injected"):
        hybridexec.run(passes_a_lock(lambda lock: lock.acquire()))
    assert raised
    assert not lwps()


def test_a_spare_that_ends_before_it_has_begun_ends_the_run_with_that(raises_once: Callable[..., list[str]]) -> None:
    """Whoever has started it would wait for its first sign of life."""
    raises_once(OsThread, "_bootstrap_inner", lambda thread: "lwp" in thread.name)
    with pytest.raises(MemoryError, match="injected"):
        hybridexec.run(passes_a_lock(lambda lock: lock.acquire()))
    assert not lwps()


def test_a_spare_that_retires_while_it_is_looked_at_is_not_taken_for_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate has found it: the thread of one that had retired in time had ended when it was asked."""

    async def main() -> int:
        carrying = running_loop()._carrying
        retires = LWP(carrying, "retires")
        carrying.host.equip(retires)
        carrying.lwps.add(retires)

        def has_ended(lwp: LWP) -> bool:
            carrying.lwps.discard(retires)
            return lwp is retires

        monkeypatch.setattr(LWP, "has_ended", has_ended)
        assert not carrying.bury_ended()
        return 1

    assert hybridexec.run(main()) == 1


def test_a_thread_that_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system says that there is one, and it does nothing."""
    name = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"
    monkeypatch.setattr(threading, name, lambda *_, **__: None)
    monkeypatch.setattr(threads, "PATIENCE", 0.01)
    ended: list[str] = []
    thread = OsThread(lambda: None, "hybridexec-never", lambda: ended.append("ended"))
    with pytest.raises(RuntimeError, match="does not come"):
        thread.start()
    threading._limbo.pop(thread, None)  # type: ignore[attr-defined]
    assert not ended


def test_a_step_that_was_taken_from_the_queue_is_not_lost(raises_once: Callable[..., list[str]]) -> None:
    """What looks at it raises.  Its task is cancelled as the run ends, and would never hear of it."""
    ended: list[int] = []

    async def one(n: int) -> None:
        try:
            await asyncio.sleep(0)
        finally:
            ended.append(n)

    async def main() -> None:
        lock = threading.Lock()
        lock.acquire()
        loop = running_loop()
        tasks = [asyncio.create_task(one(n)) for n in range(3)]
        loop.call_soon(lambda: raises_once(Turns, "_may_run"))
        loop.call_soon(loop.call_soon, lock.release)
        lock.acquire()
        await asyncio.gather(*tasks)

    with pytest.raises(MemoryError, match="injected"):
        hybridexec.run(main(), preempt=60)  # else the compiled core looks
    assert sorted(ended) == [0, 1, 2]


def test_a_letter_to_the_home_is_not_lost(raises_once: Callable[..., list[str]]) -> None:
    """The home is blocked until the letter has been answered."""
    raised = raises_once(_Letter, "serve")

    async def main() -> None:
        lock = threading.Lock()
        lock.acquire()

        async def asks() -> None:
            signal.signal(signal.SIGUSR1, signal.getsignal(signal.SIGUSR1))
            lock.release()

        asks_it = asyncio.create_task(asks())
        lock.acquire()
        await asks_it

    with contextlib.suppress(MemoryError):  # it comes up in the step that is interrupted to serve, or out of the run
        hybridexec.run(main())
    assert raised


def test_the_sampler_survives_what_it_stumbles_over(
    raises_once: Callable[..., list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """An undeclared block moves the loop afterwards, too."""
    raised = raises_once(Sampler, "_look")

    async def main() -> list[str]:
        with pipe() as (reader, writer):
            order: list[str] = []

            async def reads() -> None:
                buffer = b" "
                LIBC.read(reader, buffer, 1)
                order.append("has read")

            async def writes() -> None:
                order.append("writes")
                os.write(writer, b"x")

            await asyncio.gather(reads(), writes())
            return order

    assert hybridexec.run(main()) == ["writes", "has read"]
    assert raised
    assert "the sampler failed" in caplog.text


def test_a_handler_of_the_log_that_raises_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A full disk, at the moment when all LWPs are blocked."""

    class Full(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError(28, "No space left on device")

    handler = Full()
    logging.getLogger("hybridexec").addHandler(handler)

    async def one() -> None:
        for _ in range(3):
            time.sleep(0.005)
            await asyncio.sleep(0)

    async def main() -> list[None]:
        return await asyncio.gather(*(one() for _ in range(10)))

    try:
        assert hybridexec.run(main(), max_lwps=3) == [None] * 10
    finally:
        logging.getLogger("hybridexec").removeHandler(handler)


@pytest.mark.parametrize("refused", [RuntimeError("can't allocate lock"), MemoryError()], ids=lambda exc: str(exc))
def test_a_move_that_is_refused_what_it_needs_is_not_begun(refused: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is made with the loop, as on asyncio; the next one moves it."""
    make = LWP.__init__
    raised: list[str] = []

    def raising(lwp: LWP, carrying: Carrying, name: str) -> None:
        if "lwp" in name and not raised:
            raised.append(name)
            raise refused
        make(lwp, carrying, name)

    monkeypatch.setattr(LWP, "__init__", raising)

    async def main() -> list[str]:
        time.sleep(0.001)
        assert raised
        return await passes_a_lock(lambda lock: lock.acquire())

    assert hybridexec.run(main()) == ["releases", "has it"]


def test_the_result_of_main_is_not_lost_where_no_thread_can_be_had_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio's Runner runs the loop three times more to close it; each time a sampler is started."""
    start, refuses = OsThread.start, threading.Event()

    def refusing(thread: OsThread) -> None:
        if refuses.is_set():
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(OsThread, "start", refusing)

    async def main() -> str:
        await passes_a_lock(lambda lock: lock.acquire())
        refuses.set()
        return "the result"

    assert hybridexec.run(main()) == "the result"


def test_a_finalizer_may_close_a_loop_while_the_sampler_is_told_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for the lock that its own thread has taken."""
    forgotten: list[Any] = [hybridexec.new_event_loop()]
    loop = weakref.ref(forgotten[0])
    set_tick = Sampler._set_tick

    def collecting(sampler: Sampler) -> None:
        forgotten.clear()
        gc.collect()
        set_tick(sampler)

    monkeypatch.setattr(Sampler, "_set_tick", collecting)
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        assert hybridexec.run(passes_a_lock(lambda lock: lock.acquire())) == ["releases", "has it"]
    assert loop() is None


@pytest.mark.parametrize(
    ("engine", "part"),
    [
        ("selector", "hybridexec.engines.selector.poll_of"),
        ("uvloop", "hybridexec.engines.uv.UvPoll"),
        (AUTO, "hybridexec.loop.forking.watch"),
        ("uvloop", "hybridexec.loop.forking.watch"),
    ],
)
def test_what_breaks_off_the_making_of_a_loop_is_raised(
    engine: Any, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is left of the loop: its finalizer undoes nothing twice."""
    users = tool._users

    def refused(*args: Any) -> Any:
        raise MemoryError("injected")

    with monkeypatch.context() as patch:
        patch.setattr(part, refused)
        with pytest.raises(MemoryError, match="injected"):
            hybridexec.new_event_loop(engine=engine)
        gc.collect()
    assert tool._users == users
    assert hybridexec.run(passes_a_lock(lambda lock: lock.acquire()), engine=engine) == ["releases", "has it"]


def test_who_waits_for_a_connection_gets_it_where_its_end_was_broken_off(raises_once: Callable[..., list[str]]) -> None:
    """A step is told when another one's call is over, and that has failed half way."""
    raised = raises_once(Reactions, "_tell", lambda _, call: bool(call.waiters))

    async def main() -> Any:
        gate = threading.Lock()
        gate.acquire()
        with contextlib.closing(sqlite3.connect(":memory:")) as db:
            db.create_function("slow", 0, gate.acquire)

            async def uses() -> Any:
                return db.execute("select slow()").fetchone()

            async def waits() -> Any:
                running_loop().call_soon(gate.release)
                return db.execute("select 2").fetchone()

            return await asyncio.gather(uses(), waits())

    assert hybridexec.run(main()) == [(1,), (2,)]
    assert raised


@pytest.mark.slow
@pytest.mark.parametrize("engine", [AUTO, "uvloop"])
def test_an_exception_in_any_statement_leaves_nobody_waiting(engine: str) -> None:
    """The gate's share of what the hunt tries whole."""
    inject(engine, "--most", "12", "--seed", "1")


@pytest.mark.hunt
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("engine", [AUTO, "uvloop"])
def test_an_exception_in_each_statement_leaves_nobody_waiting(engine: str) -> None:
    inject(engine)


def inject(engine: str, *options: str) -> None:
    command = [sys.executable, "-m", "tests.injecting", "--engine", engine, *options]
    played = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert played.returncode == 0, played.stdout + played.stderr
