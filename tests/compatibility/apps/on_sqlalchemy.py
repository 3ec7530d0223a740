"""SQLAlchemy's sync sessions in coroutines, by psycopg, beside its asyncio engine, by asyncpg."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from routes import application
from sqlalchemy import create_engine, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

URL = os.environ["DATABASE"].partition("://")[2]
LIMITS = {"pool_size": 2, "max_overflow": 0, "pool_timeout": 60}
engine = create_engine(f"postgresql+psycopg://{URL}", connect_args={"application_name": "pooled"}, **LIMITS)
async_engine = create_async_engine(
    f"postgresql+asyncpg://{URL}", connect_args={"server_settings": {"application_name": "pooled"}}, **LIMITS
)
scoped = scoped_session(sessionmaker(engine), scopefunc=asyncio.current_task)
holds = asyncio.Event()


class Base(DeclarativeBase):
    pass


class Visit(Base):
    __tablename__ = "visits"
    id: Mapped[int] = mapped_column(primary_key=True)
    who: Mapped[str]


@contextlib.asynccontextmanager
async def tables() -> AsyncIterator[None]:
    Base.metadata.create_all(engine)
    yield
    Base.metadata.drop_all(engine)
    engine.dispose()
    await async_engine.dispose()


async def locks() -> str:
    """Holds the row, over awaits, until the only other connection waits for it in the database."""
    with Session(engine) as session, session.begin():
        session.execute(text("UPDATE numbers SET number = 10"))
        holds.set()
        while session.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")) != 1:
            await asyncio.sleep(0.01)
    return "unlocked"


async def waits() -> str:
    """Blocks: for the other one of the pool's two connections, and for the row."""
    await holds.wait()
    with Session(engine) as session, session.begin():
        return str(session.scalar(text("UPDATE numbers SET number = number + 1 RETURNING number")))


async def visits(who: str) -> str:
    """Each task has a session of its own, which is its own again after an await and after a block."""
    scoped.add(Visit(who=who))
    scoped.flush()
    await asyncio.sleep(0)
    scoped.execute(text("SELECT pg_sleep(0.01)"))
    assert scoped.scalars(select(Visit).where(Visit.who == who)).one().who == who
    scoped.commit()
    scoped.remove()
    async with AsyncSession(async_engine) as session:
        seen = await session.scalar(select(func.count()).select_from(Visit).where(Visit.who == who))
    return f"{who} {seen}"


app = application(locks, waits, visits, lifespan=tables)
