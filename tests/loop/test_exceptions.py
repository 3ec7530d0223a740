"""Exceptions: each arrives where it would on asyncio, from wherever it is raised.

Most scenes are played twice, on asyncio's own loop and on this one, where they are carried to a spare and back: what
comes out has to be the same.  On asyncio's loop the blocks are left out, since nothing would end them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import holds, start
from settings import NAMES, Ends, Setting, agree, shape

import hybridexec

pytestmark = [pytest.mark.differs_by_engine, pytest.mark.differs_by_version]


@pytest.fixture(params=NAMES)
def setting(request: pytest.FixtureRequest) -> Setting:
    """One way."""
    return Setting(request.param)


# ---------------------------------------------------------------- tasks


@pytest.mark.parametrize("kind", [ValueError, Ends, asyncio.CancelledError, StopAsyncIteration])
def test_what_a_task_raises_reaches_who_awaits_it(setting: Setting, kind: type[BaseException]) -> None:
    async def main(setting: Setting) -> str:
        def raises() -> None:
            raise kind("here")

        child = setting.task(raises)
        try:
            await child
        except kind as exc:
            return f"{exc!r} done={child.done()} cancelled={child.cancelled()}"
        return "nothing"

    assert "done=True" in agree(setting, main)


def test_what_main_raises_reaches_the_caller(setting: Setting) -> None:
    async def main(setting: Setting) -> None:
        def raises() -> None:
            try:
                raise KeyError("inner")
            except KeyError as exc:
                raise LookupError("outer") from exc

        child = setting.task(raises)
        try:
            await child
        except LookupError as exc:
            assert [type(exc.__cause__), type(exc.__context__)] == [KeyError, KeyError]
            raise

    assert agree(setting, main) == (LookupError, ("outer",))


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_loop_in_a_task_reaches_the_caller_and_the_others_are_cancelled(
    setting: Setting, kind: type[BaseException]
) -> None:
    order: list[str] = []

    async def main(setting: Setting) -> None:
        def raises() -> None:
            raise kind(7)

        async def ends() -> None:
            try:
                setting.go(raises)()
            finally:
                order.append("ends")

        async def other() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                order.append("cancelled")
                raise
            finally:
                order.append("finally")

        tasks = [asyncio.create_task(other()), asyncio.create_task(ends())]
        with setting.away():
            pass
        await asyncio.gather(*tasks)

    assert agree(setting, main) == (kind, (7,))
    assert order == ["ends", "cancelled", "finally"] * 2


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_loop_ends_the_batch(kind: type[BaseException]) -> None:
    """What is ready behind it waits for the next run, on a spare as at home."""

    def play(setting: Setting, loop: asyncio.AbstractEventLoop) -> list[str]:
        order: list[str] = []

        def ends() -> None:
            order.append("ends")
            raise kind(3)

        def first() -> None:
            loop.call_soon(setting.go(ends))
            loop.call_soon(order.append, "behind")
            with setting.away():
                pass
            order.append("first")

        loop.call_soon(first)
        with pytest.raises(kind):
            loop.run_forever()
        order.append("raised")
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        return order

    assert play(Setting("asyncio"), asyncio.SelectorEventLoop()) == ["first", "ends", "raised", "behind"]
    assert play(Setting("home"), hybridexec.new_event_loop()) == ["first", "ends", "raised", "behind"]


def test_the_traceback_of_a_task_is_whole(setting: Setting) -> None:
    async def main(setting: Setting) -> list[str]:
        def innermost() -> None:
            raise ValueError

        def middle() -> None:
            setting.go(innermost)()

        async def task() -> None:
            middle()

        child = asyncio.create_task(task())
        with setting.away():
            pass
        try:
            await child
        except ValueError as exc:
            frames = [frame.name for frame in traceback.extract_tb(exc.__traceback__)]
            return [name for name in frames if name in ("main", "task", "middle", "innermost")]
        return []

    assert agree(setting, main) == ["main", "task", "middle", "innermost"]


def test_finally_runs_with_the_loop_from_the_inside_out(setting: Setting) -> None:
    async def main(setting: Setting) -> list[str]:
        order: list[str] = []
        loop = asyncio.get_running_loop()

        def raises() -> None:
            raise ValueError

        @contextlib.contextmanager
        def manager() -> Iterator[None]:
            try:
                yield
            finally:
                order.append(f"manager {holds(loop)}")

        async def task() -> None:
            try:
                with manager():
                    try:
                        setting.go(raises)()
                    finally:
                        setting.go(lambda: order.append(f"inner {holds(loop)}"))()
            finally:
                order.append(f"outer {holds(loop)}")

        child = asyncio.create_task(task())
        with setting.away():
            pass
        await asyncio.wait([child])
        assert isinstance(child.exception(), ValueError)
        return order

    assert agree(setting, main) == ["inner True", "manager True", "outer True"]


def test_an_exception_that_a_blocking_call_raises_is_the_same(setting: Setting) -> None:
    async def main(setting: Setting) -> Any:
        def raises() -> None:
            os.read(-1, 1)

        child = setting.task(raises)
        await asyncio.wait([child])
        return shape(child.exception())

    assert agree(setting, main)[0] is OSError


def test_generator_exit_of_a_suspended_coroutine_and_generator(setting: Setting) -> None:
    async def main(setting: Setting) -> list[str]:
        order: list[str] = []

        async def generates() -> Any:
            try:
                yield 1
            except GeneratorExit:
                setting.go(lambda: order.append("async generator"))()
                raise

        async def suspended() -> None:
            try:
                await asyncio.Future()
            except GeneratorExit:
                setting.go(lambda: order.append("coroutine"))()
                raise

        async def task() -> None:
            generator = generates()
            assert await anext(generator) == 1
            await generator.aclose()
            coroutine = suspended()
            coroutine.send(None)
            coroutine.close()

        child = asyncio.create_task(task())
        with setting.away():
            pass
        await child
        return order

    assert agree(setting, main) == ["async generator", "coroutine"]


# ---------------------------------------------------------------- groups


def test_a_task_group_gathers_what_its_tasks_raise(setting: Setting) -> None:
    async def main(setting: Setting) -> None:
        def raises(exc: Exception) -> None:
            raise exc

        async def child(exc: Exception) -> None:
            setting.go(functools.partial(raises, exc))()

        async with asyncio.TaskGroup() as group:
            group.create_task(child(ValueError(1)))
            group.create_task(child(KeyError(2)))
            with setting.away():
                pass

    kind, parts = agree(setting, main)
    assert kind is ExceptionGroup
    assert [part[0] for part in parts] == [KeyError, ValueError]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_loop_in_a_task_group_comes_out_of_run(setting: Setting, kind: type[BaseException]) -> None:
    async def main(setting: Setting) -> None:
        def raises() -> None:
            raise kind(9)

        async def child() -> None:
            setting.go(raises)()

        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(60))
            group.create_task(child())
            with setting.away():
                pass

    assert agree(setting, main) == (kind, (9,))


def test_a_base_exception_of_a_task_group_is_a_base_exception_group(setting: Setting) -> None:
    async def main(setting: Setting) -> None:
        def raises() -> None:
            raise Ends("base")

        async def child() -> None:
            setting.go(raises)()

        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            with setting.away():
                pass

    kind, parts = agree(setting, main)
    assert kind is BaseExceptionGroup
    assert parts[0][0] is Ends


# ---------------------------------------------------------------- how a program ends


@pytest.mark.parametrize(
    ("statement", "status"),
    [
        ("sys.exit(5)", 5),
        ("sys.exit('told')", 1),
        ("sys.exit()", 0),
        ("1 / 0", 1),
        ("raise KeyboardInterrupt", -2),
    ],
)
@pytest.mark.parametrize("run", ["asyncio.run", "hybridexec.run"])
def test_the_exit_status_of_a_program(run: str, statement: str, status: int) -> None:
    """Raised in a step that is on a spare, while the home is blocked and goes on only after it."""
    process = start(f"""
        import _thread, asyncio, os, sys, threading, time
        import hybridexec

        reader, writer = os.pipe()

        async def ends():
            if {run!r} == "hybridexec.run":
                assert _thread.get_ident() != threading.main_thread().ident
            try:
                os.write(writer, b"x")
                {statement}
            finally:
                print("finally", flush=True)

        async def main():
            task = asyncio.create_task(ends())
            if {run!r} == "hybridexec.run":
                os.read(reader, 1)
            await task

        {run}(main())
    """)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == status, output
    assert output.startswith("finally")
    if "told" in statement:
        assert "told" in output
    if "/" in statement:
        assert "ZeroDivisionError" in output


def test_one_exit_is_told_once() -> None:
    """What ends the loop comes by several ways, and while the home is blocked the loop goes on elsewhere."""
    process = start("""
        import asyncio, os, sys
        import hybridexec

        reader, writer = os.pipe()

        async def blocks():
            os.read(reader, 1)
            await asyncio.sleep(60)

        async def ends():
            asyncio.get_running_loop().call_later(0.001, os.write, writer, b"xxx")
            sys.exit(6)

        async def main():
            await asyncio.gather(blocks(), blocks(), blocks(), ends())

        hybridexec.run(main())
    """)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 6, output
    assert "another exception" not in output
