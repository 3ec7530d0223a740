"""SQLAlchemy's asyncio extension, which switches greenlets across awaits, on a loop that moves all the time."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import os
import random
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from helpers import COPIES_STACKS, holds, pipe
from sqlalchemy import Connection, ForeignKey, event, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload
from sqlalchemy.util import await_only

import hybridexec

pytestmark = [pytest.mark.needs_stack, COPIES_STACKS]

ACCOUNTS = 6
MONEY = 1000


class Base(DeclarativeBase):
    """The tables."""


class Account(Base):
    """Has money."""

    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    money: Mapped[int]
    notes: Mapped[list[Note]] = relationship(back_populates="account")


class Note(Base):
    """Belongs to an account."""

    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    text: Mapped[str]
    account: Mapped[Account] = relationship(back_populates="notes")


@contextlib.asynccontextmanager
async def engine_on(path: Path) -> AsyncIterator[AsyncEngine]:
    """An engine on a database file with the accounts in it."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", connect_args={"timeout": 30})

    @event.listens_for(engine.sync_engine, "begin")
    def immediate(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    @event.listens_for(engine.sync_engine, "connect")
    def manual(connection: Any, record: Any) -> None:
        connection.isolation_level = None

    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine) as session:
        session.add_all(Account(id=number, money=MONEY) for number in range(ACCOUNTS))
        await session.commit()
    try:
        yield engine
    finally:
        await engine.dispose()


@contextlib.asynccontextmanager
async def blocked_home() -> AsyncIterator[None]:
    """Other tasks block whoever carries the loop, the home above all, all the time."""
    over = False

    async def blocks() -> None:
        while not over:
            time.sleep(0.0015)
            await asyncio.sleep(0.0002)

    blockers = [asyncio.create_task(blocks()) for _ in range(3)]
    try:
        yield
    finally:
        over = True
        await asyncio.gather(*blockers)


async def transfer(sessions: async_sessionmaker[AsyncSession], rng: random.Random) -> None:
    """Move money between two accounts, in one transaction with many awaits."""
    source, target = rng.sample(range(ACCOUNTS), 2)
    amount = rng.randrange(1, 50)
    async with sessions() as session, session.begin():
        first = await session.get_one(Account, source)
        first.money -= amount
        await session.flush()
        if rng.random() < 0.5:
            time.sleep(0.001)
        second = await session.get_one(Account, target)
        second.money += amount
        session.add(Note(account_id=target, text=f"{amount} from {source}"))


def test_transactions_come_out_right(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed={seed}")
    rng = random.Random(seed)

    async def worker(sessions: async_sessionmaker[AsyncSession]) -> None:
        for _ in range(8):
            await transfer(sessions, rng)

    async def main() -> tuple[int, int]:
        async with engine_on(tmp_path / "database") as engine:
            sessions = async_sessionmaker(engine, expire_on_commit=False)
            async with blocked_home(), asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(worker(sessions))
            async with sessions() as session:
                total = (await session.execute(select(func.sum(Account.money)))).scalar_one()
                notes = (await session.execute(select(func.count(Note.id)))).scalar_one()
                return total, notes

    assert hybridexec.run(main()) == (ACCOUNTS * MONEY, 32)


def test_orm_and_core_on_a_loop_whose_home_is_blocked(tmp_path: Path) -> None:
    async def work(sessions: async_sessionmaker[AsyncSession], number: int) -> list[str]:
        async with sessions() as session:
            for note in range(3):
                session.add(Note(account_id=number, text=f"{number}.{note}"))
                await session.flush()
            await session.commit()
        async with sessions() as session:
            query = select(Account).where(Account.id == number).options(selectinload(Account.notes))
            account = (await session.execute(query)).scalar_one()
            rows = [
                row.text async for row in await session.stream_scalars(select(Note).where(Note.account_id == number))
            ]
            assert rows == [note.text for note in account.notes]
            assert (await session.execute(text("select 1"))).scalar_one() == 1
            lazy = await session.run_sync(lambda sync: [note.text for note in sync.get_one(Account, number).notes])
            assert lazy == rows
            return rows

    async def main() -> list[list[str]]:
        async with engine_on(tmp_path / "database") as engine, blocked_home():
            sessions = async_sessionmaker(engine)
            return await asyncio.gather(*(work(sessions, number) for number in range(ACCOUNTS)))

    assert hybridexec.run(main()) == [[f"{number}.{note}" for note in range(3)] for number in range(ACCOUNTS)]


def test_a_rollback_and_an_error_arrive_in_the_right_task(tmp_path: Path) -> None:
    async def fails(sessions: async_sessionmaker[AsyncSession], number: int) -> None:
        with pytest.raises(LookupError, match=f"{number}"):
            async with sessions() as session, session.begin():
                (await session.get_one(Account, number)).money = 0
                await session.flush()
                time.sleep(0.001)
                raise LookupError(f"{number}")

    async def main() -> int:
        async with engine_on(tmp_path / "database") as engine:
            sessions = async_sessionmaker(engine)
            async with blocked_home():
                await asyncio.gather(*(fails(sessions, number) for number in range(ACCOUNTS)))
            async with sessions() as session:
                return (await session.execute(select(func.sum(Account.money)))).scalar_one()

    assert hybridexec.run(main()) == ACCOUNTS * MONEY


@pytest.mark.parametrize("where", ["at home", "on a spare"])
def test_unbound_tasks_move_while_a_bound_one_blocks(tmp_path: Path, where: str) -> None:
    """A greenlet's own code blocks on what only another task of the loop releases, in the middle of a transaction."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with engine_on(tmp_path / "database") as engine:
            with pipe() as (reader, writer), pipe() as (home_reader, home_writer):
                idents: list[int] = []

                def blocks(session: Any) -> int:
                    idents.append(_thread.get_ident())
                    os.read(reader, 1)
                    assert holds(loop)
                    idents.append(_thread.get_ident())
                    number = session.execute(text("select 40 + 2")).scalar_one()
                    idents.append(_thread.get_ident())
                    return int(number)

                async def queries() -> int:
                    async with AsyncSession(engine) as session:
                        return await session.run_sync(blocks)

                async def releases() -> None:
                    while len(idents) < 1:
                        await asyncio.sleep(0)
                    assert _thread.get_ident() not in idents
                    os.write(writer, b"x")

                async def works() -> int:
                    try:
                        result, _ = await asyncio.gather(queries(), releases())
                        return result
                    finally:
                        os.write(home_writer, b"x")

                task = asyncio.create_task(works())
                if where == "on a spare":
                    os.read(home_reader, 1)
                assert await task == 42
                assert len(set(idents)) == 1
                home = threading.main_thread().ident
                assert (idents[0] == home) == (where == "at home")

    hybridexec.run(main())


def test_a_bound_task_is_cancelled_and_times_out(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine_on(tmp_path / "database") as engine, blocked_home():
            begun = asyncio.Event()

            def begins(connection: Connection) -> None:
                begun.set()
                await_only(asyncio.Event().wait())  # the greenlet lives, and waits for what never comes

            async def waits() -> None:
                async with engine.begin() as connection:
                    await connection.run_sync(begins)

            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await waits()
            begun.clear()
            task = asyncio.create_task(waits())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with engine.begin() as connection:
                assert (await connection.execute(text("select 42"))).scalar_one() == 42

    hybridexec.run(main())
