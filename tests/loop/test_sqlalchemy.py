"""SQLAlchemy's asyncio extension in steps of ours: no greenlet, and no task is bound to a thread."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import ENGINES, here, pipe, running_loop
from sqlalchemy import AsyncAdaptedQueuePool, Connection, Integer, exc, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import greenlet_spawn, in_greenlet

import hybridexec

pytestmark = pytest.mark.differs_by_version

value: contextvars.ContextVar[str] = contextvars.ContextVar("value", default="none")


class Base(DeclarativeBase):
    """The tables."""


class Account(Base):
    """Has money."""

    __tablename__ = "account"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    money: Mapped[int]


@contextlib.asynccontextmanager
async def engine_on(folder: Path, **options: Any) -> AsyncIterator[AsyncEngine]:
    """An engine on a database with ten accounts."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{folder}/accounts.db", connect_args={"timeout": 30}, **options)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine) as session:
        session.add_all(Account(money=100) for _ in range(10))
        await session.commit()
    try:
        yield engine
    finally:
        await engine.dispose()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_query_ends_that_a_blocked_step_of_the_same_thread_waits_for(engine: Any, tmp_path: Path) -> None:
    """With a greenlet it is tied to the thread that it began on, and that is blocked until the query has ended."""
    order: list[str] = []

    async def main() -> int:
        loop = running_loop()
        event = asyncio.Event()
        with pipe() as (reader, writer):

            def inside(connection: Connection) -> int:
                first = connection.execute(text("select 20")).scalar_one()
                order.append("queries")
                await_only(event.wait())
                second = connection.execute(text("select 22")).scalar_one()
                os.write(writer, b"x")
                return first + second

            async def queries() -> int:
                async with database.connect() as connection:
                    return await connection.run_sync(inside)

            async def blocks() -> None:
                while not order:
                    await asyncio.sleep(0)
                loop.call_soon(event.set)
                os.read(reader, 1)
                order.append("returns")

            async with engine_on(tmp_path) as database:
                result, _ = await asyncio.gather(queries(), blocks())
                assert loop.stats().awaits > 0
                assert not loop._reactions.affinity.bound
                return result

    assert hybridexec.run(main(), engine=engine) == 42
    assert order == ["queries", "returns"]


def test_it_is_the_same_task_and_context(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine_on(tmp_path) as database, database.connect() as connection:
            task = asyncio.current_task()

            def inside(connection: Connection) -> None:
                value.set("inside")
                connection.execute(text("select 1"))
                assert asyncio.current_task() is task
                assert in_greenlet()

            value.set("outside")
            await connection.run_sync(inside)
            assert value.get() == "inside"
            assert not in_greenlet()

    hybridexec.run(main())


def test_what_is_awaited_is_not_inside_and_may_spawn() -> None:
    async def awaited() -> tuple[bool, int]:
        first = in_greenlet()
        await asyncio.sleep(0)
        return first or in_greenlet(), await greenlet_spawn(lambda: await_only(asyncio.sleep(0, 5)))

    async def main() -> tuple[bool, int]:
        return await greenlet_spawn(lambda: await_only(awaited()))

    assert hybridexec.run(main()) == (False, 5)


def test_outside_of_it_nothing_can_be_awaited() -> None:
    async def main() -> None:
        with pytest.raises(exc.MissingGreenlet):
            await_only(asyncio.sleep(0))

    hybridexec.run(main())


def test_what_does_not_await_is_told_where_that_is_required() -> None:
    async def main() -> int:
        with pytest.raises(exc.AwaitRequired):
            await greenlet_spawn(lambda: 1, _require_await=True)
        return await greenlet_spawn(lambda: await_only(asyncio.sleep(0, 2)), _require_await=True)

    assert hybridexec.run(main()) == 2


class Raised(Exception):
    """Of the synchronous part, or of what it awaits."""


@pytest.mark.parametrize("where", ["inside", "awaited"])
def test_what_is_raised_comes_up(where: str) -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise Raised

    def inside() -> None:
        await_only(fails() if where == "awaited" else asyncio.sleep(0))
        raise Raised

    async def main() -> None:
        with pytest.raises(Raised):
            await greenlet_spawn(inside)
        assert not in_greenlet()

    hybridexec.run(main())


@pytest.mark.needs_stack
@pytest.mark.parametrize("where", ["pinned", "bound", "observe", "asyncio", "beside a bound task", "too many"])
def test_a_greenlet_is_used_where_the_step_cannot_wait(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "too many":
        monkeypatch.setattr("hybridexec.loop.sqlalchemy.LEAST_BOUND", 0)
    ways: dict[str, Callable[[], Any]] = {"pinned": hybridexec.pinned, "bound": hybridexec.bound}

    async def stays(leave: asyncio.Event) -> None:
        with hybridexec.bound():
            await leave.wait()

    async def main() -> tuple[bool, int]:
        leave = asyncio.Event()
        tasks = [asyncio.create_task(stays(leave))] if where == "beside a bound task" else []
        await asyncio.sleep(0)
        with ways.get(where, contextlib.nullcontext)():
            result = await greenlet_spawn(lambda: (in_greenlet(), await_only(asyncio.sleep(0, 7))))
        leave.set()
        await asyncio.gather(*tasks)
        if where != "asyncio":
            assert running_loop().stats().awaits == 0
        return result

    if where == "asyncio":
        assert asyncio.run(main()) == (True, 7)
    elif where == "observe":
        assert hybridexec.run(main(), mode="observe") == (True, 7)
    elif where == "too many":

        async def many() -> tuple[bool, int]:
            """Half of those that may wait do: two of two and four."""
            event = asyncio.Event()

            async def waits() -> None:
                hybridexec.block_on(event.wait())

            waiting = asyncio.create_task(waits())
            await asyncio.sleep(0)
            result = await greenlet_spawn(lambda: (in_greenlet(), await_only(asyncio.sleep(0, 7))))
            assert running_loop().stats().awaits == 1
            event.set()
            await waiting
            return result

        assert hybridexec.run(many(), max_lwps=2) == (True, 7)
    else:
        assert hybridexec.run(main()) == (True, 7)


def test_a_cancelled_query_gives_its_connection_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine_on(tmp_path, poolclass=AsyncAdaptedQueuePool, pool_size=1, max_overflow=0) as database:
            begun = asyncio.Event()

            def inside(connection: Connection) -> None:
                connection.execute(text("select 1"))
                begun.set()
                await_only(asyncio.Event().wait())

            async def queries() -> None:
                async with database.connect() as connection:
                    await connection.run_sync(inside)

            for _ in range(3):
                begun.clear()
                task = asyncio.create_task(queries())
                await begun.wait()
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled()
            async with asyncio.timeout(30), database.connect() as connection:  # the pool has one, and it is free
                assert (await connection.execute(text("select 1"))).scalar_one() == 1

    hybridexec.run(main())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what aiosqlite leaves is not closed
@pytest.mark.parametrize("seed", range(2))
def test_transactions_beside_blocks_timeouts_and_cancellations(seed: int, tmp_path: Path) -> None:
    """No money is lost, no connection is, and nobody waits on for a block to end."""
    chance = random.Random(seed)

    async def main() -> None:
        async with engine_on(tmp_path, poolclass=AsyncAdaptedQueuePool) as database:
            sessions = async_sessionmaker(database)

            async def transfers() -> None:
                for _ in range(4):
                    source, target = chance.sample(range(1, 11), 2)
                    with contextlib.suppress(TimeoutError, exc.OperationalError):
                        async with asyncio.timeout(chance.choice([None, None, 0.01])), sessions.begin() as session:
                            for account, amount in (source, -1), (target, 1):
                                change = update(Account).where(Account.id == account)
                                await session.execute(change.values(money=Account.money + amount))

            async def blocks() -> None:
                with pipe() as (reader, writer):
                    for _ in range(10):
                        running_loop().call_later(0.002, os.write, writer, b"x")
                        os.read(reader, 1)
                        await asyncio.sleep(0)

            await asyncio.gather(*(transfers() for _ in range(4)), *(blocks() for _ in range(2)))
            async with sessions() as session:
                money = (await session.scalars(select(Account.money))).all()
            assert sum(money) == 1000
            assert database.pool.checkedout() == 0
            carrying = running_loop()._carrying
            assert not carrying.awaiting
            assert not here().bound_tasks

    hybridexec.run(main())
    gc.collect()


def test_rows_are_streamed(tmp_path: Path) -> None:
    async def main() -> int:
        async with engine_on(tmp_path) as database, AsyncSession(database) as session:
            total = 0
            result = await session.stream_scalars(select(Account.money).execution_options(yield_per=2))
            async for money in result:
                total += money
            return total

    assert hybridexec.run(main()) == 1000
