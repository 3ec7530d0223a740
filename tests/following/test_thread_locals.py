"""Thread-locals belong to the loop: coroutines share their values wherever it is carried, as on one thread."""

from __future__ import annotations

import _thread
import asyncio
import contextvars
import ctypes
import gc
import logging
import os
import sys
import threading
import weakref
from typing import Any

import pytest
from asgiref.local import Local
from helpers import lwps, pipe, running_loop
from sqlalchemy.orm import scoped_session, sessionmaker
from steps import Block, Step, declared, discovered, explicit, on_a_spare

import hybridexec
from hybridexec import HybridExecutor, HybridLoop, UserThread
from hybridexec.following import thread_locals

pytestmark = pytest.mark.differs_by_version

BLOCKS = pytest.mark.parametrize("block", [declared, discovered, explicit])


class Counted(threading.local):
    """Has a value from the start on each thread that looks."""

    made = 0

    def __init__(self, start: int) -> None:
        type(self).made += 1
        self.number = start


def os_thread() -> int:
    """The calling thread, as the system calls it."""
    return threading.get_native_id()


@BLOCKS
def test_what_one_coroutine_stores_others_find_on_a_spare_and_the_other_way_round(block: Block) -> None:
    local = threading.local()
    threads = set()

    async def on_the_home() -> None:
        local.of_home = "home's"
        block(reader)
        threads.add(os_thread())
        assert local.of_spare == "spare's"
        del local.of_spare

    async def on_a_spare() -> None:
        threads.add(os_thread())
        assert local.of_home == "home's"
        local.of_spare = "spare's"
        os.write(writer, b"x")

    async def main() -> None:
        await asyncio.gather(on_the_home(), on_a_spare())
        assert vars(local) == {"of_home": "home's"}

    with pipe() as (reader, writer):
        hybridexec.run(main())
    assert len(threads) == 2
    assert vars(local) == {"of_home": "home's"}  # the home is this thread


def test_a_subclass_is_initialized_once_for_all_who_carry_the_loop() -> None:
    Counted.made = 0
    counted: list[Counted] = []

    async def blocks() -> None:
        counted.append(Counted(5))
        os.read(reader, 1)
        assert counted[0].number == 6

    async def counts() -> None:
        counted[0].number += 1
        os.write(writer, b"x")

    async def main() -> None:
        await asyncio.gather(blocks(), counts())

    with pipe() as (reader, writer):
        hybridexec.run(main())
    assert Counted.made == 1


def test_an_object_that_was_made_on_a_spare_outlives_it() -> None:
    made: list[threading.local] = []

    class Value:
        pass

    async def blocks() -> None:
        os.read(reader, 1)
        assert isinstance(made[0].value, Value)

    async def makes() -> None:
        made.append(threading.local())
        made[0].value = Value()
        os.write(writer, b"x")

    async def main() -> None:
        await asyncio.gather(blocks(), makes())

    with pipe() as (reader, writer):
        hybridexec.run(main())
    assert lwps() == []
    gc.collect()
    reference = weakref.ref(made[0].value)
    assert reference() is not None
    made.clear()
    gc.collect()
    assert reference() is None


def test_many_spares_at_once_share() -> None:
    local = threading.local()
    blocked = []

    async def blocks(number: int) -> None:
        blocked.append(os_thread())
        setattr(local, f"of_{number}", number)
        os.read(reader, 1)
        assert vars(local) == {f"of_{n}": n for n in range(20)}

    async def main() -> None:
        tasks = [asyncio.create_task(blocks(number)) for number in range(20)]
        while len(blocked) < 20:
            await asyncio.sleep(0)
        os.write(writer, b"x" * 20)
        await asyncio.gather(*tasks)

    with pipe() as (reader, writer):
        hybridexec.run(main())
    assert len(set(blocked)) == 20


def test_other_threads_do_not_share() -> None:
    local = threading.local()

    async def main() -> None:
        local.value = "the loop's"

        async def blocks() -> None:
            os.read(reader, 1)

        async def asks() -> None:
            assert not hasattr(await asyncio.to_thread(lambda: local.__dict__), "value")
            assert await asyncio.to_thread(getattr, local, "value", None) is None
            os.write(writer, b"x")

        await asyncio.gather(blocks(), asks())

    with pipe() as (reader, writer):
        hybridexec.run(main())


def test_a_value_that_is_new_in_a_region_is_there_afterwards() -> None:
    local = threading.local()
    local.old = 0

    async def blocks() -> None:
        with hybridexec.blocking():
            os.read(reader, 1)
            new.value = "new"
            local.old += 1
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
        assert asyncio.get_running_loop() is running_loop()

    async def releases() -> None:
        local.old += 1
        os.write(writer, b"x")
        await asyncio.sleep(0)
        assert running_loop() is not None

    async def main() -> None:
        await asyncio.gather(blocks(), releases())
        assert new.value == "new"
        assert local.old == 2

    new = threading.local()
    with pipe() as (reader, writer):
        hybridexec.run(main())
    assert new.value == "new"


def test_a_loop_in_a_region_of_another_is_the_running_one_there_alone() -> None:
    local = threading.local()

    async def inner() -> HybridLoop:
        local.inner = True
        os.read(reader, 1)
        return running_loop()

    async def nests() -> None:
        outer = running_loop()
        with hybridexec.blocking():
            assert hybridexec.run(inner()) is not outer
        assert running_loop() is outer

    async def releases() -> None:
        outer = running_loop()
        for _ in range(5):
            await asyncio.sleep(0)
            assert running_loop() is outer
        os.write(writer, b"x")

    async def main() -> None:
        await asyncio.gather(nests(), releases())
        assert local.inner

    with pipe() as (reader, writer):
        hybridexec.run(main())


def test_a_step_that_drains_finds_the_values_and_its_own_loop() -> None:
    local = threading.local()
    local.value = 1
    loop = hybridexec.new_event_loop()
    seen: list[Any] = []
    with Step(loop, then=lambda: seen.append((local.value, asyncio.get_running_loop()))) as step:
        on_a_spare(loop, step)

        async def closes() -> None:
            with hybridexec.blocking():
                step.release()
                loop.close()

        hybridexec.run(closes())
    assert seen == [(1, loop)]
    assert asyncio._get_running_loop() is None


def test_a_loop_has_the_values_of_the_thread_that_runs_it_now() -> None:
    local = threading.local()
    local.name = "first"
    loop = hybridexec.new_event_loop()
    seen = []

    async def blocks() -> None:
        seen.append(local.name)
        os.read(reader, 1)
        seen.append(local.name)

    async def releases() -> None:
        seen.append(local.name)
        os.write(writer, b"x")

    async def both() -> None:
        await asyncio.gather(blocks(), releases())

    def elsewhere() -> None:
        local.name = "second"
        loop.run_until_complete(both())

    with pipe() as (reader, writer):
        loop.run_until_complete(both())
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        loop.run_until_complete(both())
        loop.close()
    assert seen == ["first"] * 3 + ["second"] * 3 + ["first"] * 3


def test_each_loop_of_an_executor_has_its_own() -> None:
    local = threading.local()
    values: dict[HybridLoop, set[Any]] = {}
    begun = threading.Semaphore(0)

    async def job() -> None:
        if not hasattr(local, "value"):
            local.value = object()
        values.setdefault(running_loop(), set()).add(local.value)
        begun.release()
        os.read(reader, 1)
        values[running_loop()].add(local.value)

    with pipe() as (reader, writer), HybridExecutor(2) as executor:
        jobs: list[UserThread[None]] = []
        while len(values) < 2 or len(jobs) < 8:  # a loop that has nothing to do may take those of the other one
            jobs.append(executor.spawn(job))
            begun.acquire()
        os.write(writer, b"x" * len(jobs))
        for user_thread in jobs:
            user_thread.result(60)
    assert len(values) == 2
    assert all(len(seen) == 1 for seen in values.values())
    assert len(set.union(*values.values())) == 2


def test_errno_of_ctypes_is_the_steps_own() -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def fails(number: int) -> int:
        ctypes.set_errno(number)
        return ctypes.get_errno()

    async def blocks() -> None:
        ctypes.set_errno(0)
        # It fails with EBADF after the wait; what others do meanwhile, and before this step goes on, is theirs.
        assert libc.poll(ctypes.byref(wanted), 1, -1) == 1
        assert libc.close(-1) == -1
        os.read(reader, 1)
        assert ctypes.get_errno() == 9

    async def releases() -> None:
        assert fails(5) == 5
        os.write(writer, b"x")
        await asyncio.sleep(0)
        assert fails(7) == 7

    async def main() -> None:
        await asyncio.gather(blocks(), releases())

    class PollFd(ctypes.Structure):
        _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))

    with pipe() as (reader, writer):
        wanted = PollFd(reader, 1, 0)
        hybridexec.run(main())


def test_contexts_stay_the_steps_own() -> None:
    variable = contextvars.ContextVar("variable", default=0)

    async def blocks() -> None:
        variable.set(1)
        os.read(reader, 1)
        assert variable.get() == 1

    async def releases() -> None:
        assert variable.get() == 0
        variable.set(2)
        os.write(writer, b"x")

    async def main() -> None:
        await asyncio.gather(asyncio.create_task(blocks()), asyncio.create_task(releases()))

    with pipe() as (reader, writer):
        hybridexec.run(main())


def test_where_they_cannot_be_shared_the_log_says_so_and_each_thread_has_its_own(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    local = threading.local()
    words = thread_locals._Words()
    monkeypatch.setattr(words, "_find", lambda: ())
    monkeypatch.setattr(thread_locals, "_words", words)

    async def blocks() -> None:
        local.value = 1
        os.read(reader, 1)
        assert local.value == 1

    async def releases() -> None:
        assert not hasattr(local, "value")
        os.write(writer, b"x")

    async def main() -> None:
        await asyncio.gather(blocks(), releases())

    with pipe() as (reader, writer), caplog.at_level(logging.WARNING, "hybridexec"):
        hybridexec.run(main())
        hybridexec.run(asyncio.sleep(0))
    assert [record.getMessage() for record in caplog.records] == [
        "this interpreter's threading.local values cannot be shared: they stay with each thread"
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_child_has_the_values_too() -> None:
    local = threading.local()
    status = []

    async def blocks() -> None:
        local.value = 3
        os.read(reader, 1)

    async def forks() -> None:
        child = os.fork()
        if not child:
            os._exit(getattr(local, "value", 0))
        status.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        os.write(writer, b"x")

    async def main() -> None:
        await asyncio.gather(blocks(), forks())

    with pipe() as (reader, writer):
        hybridexec.run(main())
    assert status == [3]


# ---------------------------------------------------------------- who the thread is


@BLOCKS
def test_to_the_code_of_a_loop_its_home_is_the_current_thread(block: Block) -> None:
    seen = []
    threads = set()
    daemons = []

    def look() -> None:
        threads.add(os_thread())
        seen.append((threading.get_ident(), threading.current_thread()))
        daemons.append(threading.Thread(target=print).daemon)

    async def blocks() -> None:
        look()
        block(reader)
        look()

    async def releases() -> None:
        look()
        assert await asyncio.to_thread(threading.get_ident) not in (threading.get_ident(), _thread.get_ident())
        os.write(writer, b"x")

    async def main() -> None:
        await asyncio.gather(blocks(), releases())

    with pipe() as (reader, writer):
        hybridexec.run(main(), debug=True)
    assert seen == [(_thread.get_ident(), threading.main_thread())] * 3
    assert len(threads) == 2
    assert daemons == [False] * 3


def test_asyncio_debug_mode_takes_every_carrier_for_the_right_thread_and_no_other() -> None:
    loop = hybridexec.new_event_loop()
    refused = []

    def elsewhere() -> None:
        try:
            loop.call_soon(print)
        except RuntimeError as exc:
            refused.append(str(exc))

    async def blocks() -> None:
        os.read(reader, 1)
        loop.call_soon(str)

    async def releases() -> None:
        loop.call_soon(str)
        await asyncio.to_thread(elsewhere)
        os.write(writer, b"x")

    async def main() -> None:
        await asyncio.gather(blocks(), releases())

    loop.set_debug(True)
    with pipe() as (reader, writer):
        loop.run_until_complete(main())
        loop.close()
    assert len(refused) == 1
    assert "Non-thread-safe operation" in refused[0]


def test_an_await_in_a_region_in_debug_mode_ends_the_region() -> None:
    told: list[dict[str, Any]] = []

    async def awaits() -> int:
        with hybridexec.blocking():
            await asyncio.sleep(0)
        return 5

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        assert await asyncio.create_task(awaits()) == 5

    hybridexec.run(main(), debug=True)
    assert [context["message"] for context in told] == ["an await inside of hybridexec.blocking() has ended it"]


def test_a_loop_in_a_region_on_a_spare_is_not_taken_for_one_of_the_main_thread() -> None:
    async def inner() -> None:
        await asyncio.sleep(0)
        await asyncio.to_thread(str)

    async def blocks() -> None:
        os.read(reader, 1)

    async def nests() -> None:
        assert threading.current_thread() is threading.main_thread()
        with hybridexec.blocking():
            hybridexec.run(inner())
        os.write(writer, b"x")

    async def main() -> None:
        await asyncio.gather(blocks(), nests())

    with pipe() as (reader, writer):
        hybridexec.run(main())


def test_asgirefs_local_finds_its_values() -> None:
    local = Local()
    critical = Local(thread_critical=True)

    async def blocks() -> None:
        local.value = critical.value = "home's"
        os.read(reader, 1)
        assert (local.value, critical.value) == ("home's", "home's")

    async def releases() -> None:
        local.value = critical.value = "spare's"
        os.write(writer, b"x")
        await asyncio.sleep(0)
        assert (local.value, critical.value) == ("spare's", "spare's")

    async def main() -> None:
        await asyncio.gather(asyncio.create_task(blocks()), asyncio.create_task(releases()))

    with pipe() as (reader, writer):
        hybridexec.run(main())


# ---------------------------------------------------------------- libraries that keep something in a thread-local


def test_a_scoped_session() -> None:
    sessions = scoped_session(sessionmaker())
    made = []

    async def blocks() -> None:
        made.append(sessions())
        os.read(reader, 1)
        assert sessions() is made[0]

    async def releases() -> None:
        made.append(sessions())
        os.write(writer, b"x")

    async def main() -> None:
        await asyncio.gather(blocks(), releases())

    with pipe() as (reader, writer):
        hybridexec.run(main())
    assert made[0] is made[1]
    sessions.remove()
