"""How an executor ends: shut down, forgotten, with the interpreter, in a forked child, by its initializer."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import sys
import threading
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

import pytest
from executors import PATIENCE, every_model, every_moving, executing, forever, gate, until
from helpers import lwps, start

import hybridexec
from hybridexec import HybridExecutor


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


@every_model
def test_nothing_is_taken_after_a_shutdown(options: dict[str, Any]) -> None:
    executor = HybridExecutor(**options)
    assert executor.submit(double, 1).result(PATIENCE) == 2
    executor.shutdown()
    executor.shutdown()
    assert not lwps()
    for call in (executor.submit, executor.spawn):
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            call(len, "abc")
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        asyncio.run(executor.run(len, "abc"))
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.map(len, ["abc"])
    assert "closed" in repr(executor)


@every_model
def test_one_that_was_never_used_has_no_thread(options: dict[str, Any]) -> None:
    with executing(**options) as executor:
        assert not lwps()
        assert executor.stats().lwps == 0
        assert not executor.threads()


@every_model
def test_shutdown_waits_for_what_there_is(options: dict[str, Any]) -> None:
    done: list[int] = []

    async def later(number: int) -> None:
        await asyncio.sleep(0.01)
        done.append(number)

    executor = HybridExecutor(**options)
    for number in range(10):
        executor.submit(later, number)
    executor.shutdown()
    assert sorted(done) == list(range(10))
    assert not lwps()


@every_model
def test_shutdown_need_not_wait(options: dict[str, Any]) -> None:
    with gate() as closed:
        executor = HybridExecutor(**options)
        future = executor.submit(closed.enter, "result")
        closed.reached()
        executor.shutdown(wait=False)
        assert not future.done()
        with pytest.raises(RuntimeError):
            executor.submit(len, "abc")
        closed.open()
        assert future.result(PATIENCE) == "result"
        executor.shutdown()


@pytest.mark.parametrize("options", [{"model": "n:1"}, {"model": "1:1", "loops": 1}], ids=["n:1", "1:1"])
def test_shutdown_cancels_what_has_not_started(options: dict[str, Any]) -> None:
    called: list[int] = []
    with gate() as closed:
        executor = HybridExecutor(**options)
        running = executor.submit(closed.enter, "result")
        closed.reached()
        futures = [executor.submit(called.append, number) for number in range(5)]
        executor.shutdown(wait=False, cancel_futures=True)
        assert all(future.cancelled() for future in futures)
        closed.open()
        executor.shutdown()
        assert running.result(0) == "result"
    assert not called


@every_moving
def test_a_user_thread_cannot_wait_for_its_own_end(options: dict[str, Any]) -> None:
    with executing(**options) as executor:
        with pytest.raises(RuntimeError, match="would wait for itself"):
            executor.submit(executor.shutdown).result(PATIENCE)


@every_model
def test_tasks_that_user_threads_leave_behind_are_cancelled(options: dict[str, Any]) -> None:
    cancelled = threading.Event()

    async def child() -> None:
        try:
            await forever()
        finally:
            cancelled.set()

    async def leaves() -> None:
        kept.append(asyncio.create_task(child()))
        await asyncio.sleep(0)

    kept: list[object] = []
    with executing(**options) as executor:
        executor.submit(leaves).result(PATIENCE)
    assert cancelled.is_set()


@every_model
def test_a_forgotten_one_does_its_work_and_ends(options: dict[str, Any]) -> None:
    with gate() as closed:
        executor = HybridExecutor(**options)
        future = executor.submit(closed.enter_async, "result")
        closed.reached()
        del executor
        gc.collect()
        closed.open()
        assert future.result(PATIENCE) == "result"
        until(lambda: not lwps())


# ---------------------------------------------------------------- the initializer


@every_model
def test_each_lwp_calls_the_initializer_first(options: dict[str, Any]) -> None:
    local = threading.local()
    barrier = threading.Barrier(8)

    def initialize(value: str) -> None:
        local.value = value

    def use() -> str:
        return str(local.value)

    def use_all() -> str:
        barrier.wait(PATIENCE)  # so each is on an LWP of its own
        return use()

    with executing(**options, initializer=initialize, initargs=("initialized",)) as executor:
        fn = use if options["model"] == "n:1" else use_all
        assert list(executor.map(lambda _: fn(), range(8))) == ["initialized"] * 8
        assert executor.spawn(use, bound=True).result(PATIENCE) == "initialized"


@every_model
def test_an_initializer_that_raises_breaks_the_executor(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    def initialize() -> None:
        raise LookupError("it fails")

    with caplog.at_level(logging.CRITICAL), executing(**options, initializer=initialize) as executor:
        future = executor.submit(double, 1)
        broken = future.exception(PATIENCE)
        assert isinstance(broken, BrokenThreadPool)
        assert str(broken.__cause__) == "it fails"
        with pytest.raises(concurrent.futures.BrokenExecutor, match="initializer") as caught:
            executor.submit(double, 1)
        assert caught.value.__cause__ is broken.__cause__
    assert "LookupError\n" in caplog.text
    assert f"{__file__}:" in caplog.text
    assert "it fails" not in caplog.text
    assert not lwps()


@every_moving
def test_an_initializer_that_raises_on_a_spare_lets_go_on_what_has_started(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    def initialize() -> None:
        if threading.current_thread().name.startswith("hybridexec-lwp"):
            raise LookupError("it fails")

    async def blocks() -> str:
        closed.enter()
        await asyncio.sleep(0)
        return "went on"

    with gate() as closed, executing(**options, initializer=initialize) as executor:
        future = executor.submit(blocks)
        closed.reached()
        until(lambda: "broken" in repr(executor))
        closed.open()
        assert future.result(PATIENCE) == "went on"


# ---------------------------------------------------------------- exit, fork


PREFACE = """
    import asyncio, os, sys, threading, time
    from hybridexec import HybridExecutor

    async def later():
        await asyncio.sleep(0.05)
        os.write(1, b"coroutine\\n")  # in one piece

    def blocks():
        time.sleep(0.05)
        os.write(1, b"function\\n")
"""


def output(source: str) -> list[str]:
    with start(PREFACE + source) as process:
        printed, _ = process.communicate(timeout=100)
    assert process.returncode == 0, printed
    if sys.version_info < (3, 13):  # there are no new LWPs once the interpreter exits, which is told
        printed = "\n".join(line for line in printed.splitlines() if "no thread for another LWP" not in line)
    return sorted(printed.splitlines())


@pytest.mark.parametrize("options", ["", "2", "model='1:1'", "model='n:1'"])
def test_work_that_is_pending_at_exit_is_done(options: str) -> None:
    assert (
        output(f"""
    executor = HybridExecutor({options})
    for _ in range(2):
        executor.submit(later)
        executor.submit(blocks)
        executor.spawn(later, bound=True)
    """)
        == ["coroutine"] * 4 + ["function"] * 2
    )


def test_nothing_is_taken_once_the_interpreter_exits() -> None:
    assert output("""
    executor, other = HybridExecutor(), HybridExecutor()

    def submits():
        time.sleep(0.1)
        try:
            other.submit(print, "?")
        except RuntimeError as exc:
            print(exc, flush=True)

    executor.submit(submits)
    """) == ["cannot schedule new futures after interpreter shutdown"]


def test_a_child_says_what_to_do() -> None:
    assert output("""
    import warnings
    warnings.simplefilter("ignore")  # about forking a process that has threads
    executor = HybridExecutor()
    executor.submit(len, "abc").result()
    forever = threading.Event()
    pending = executor.submit(forever.wait)
    child = os.fork()
    if child == 0:
        for attempt in (lambda: executor.submit(len, "abc"), pending.result):
            try:
                attempt()
            except RuntimeError as exc:
                print("make a new one in the child" in str(exc), flush=True)
        executor.shutdown()
        with HybridExecutor() as new:
            print(new.submit(len, "abc").result(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    forever.set()
    executor.shutdown()
    """) == ["3", "True", "True"]


def test_a_child_of_a_user_thread_execs() -> None:
    """As everywhere: between fork and exec nothing of the parent is needed."""
    assert output("""
    import subprocess
    with HybridExecutor() as executor:
        print(executor.submit(subprocess.check_output, ["echo", "hello"], text=True).result().strip())
    """) == ["hello"]


def test_the_detector_goes_with_the_last_loop() -> None:
    with executing(2) as executor:
        executor.submit(len, "abc").result(PATIENCE)
        hybridexec.run(asyncio.sleep(0))
        executor.submit(len, "abc").result(PATIENCE)
    # conftest looks whether the tool id is free
