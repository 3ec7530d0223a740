"""SQLAlchemy's ``scoped_session`` and its synchronous sessions in coroutines: one session for each task.

    hybridexec run examples/scoped_session.py

Left alone, a ``scoped_session`` has one session for each thread.  All coroutines of a loop count as one thread, here as
on asyncio, where they take turns only at an ``await``.  Here they do so wherever one of them blocks, too, and another
task would use the session in the middle of that.  So the session is told what it belongs to, by ``scopefunc``.
(asyncio's own loop runs this as well: ``python examples/scoped_session.py``; it stands still meanwhile.)
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, scoped_session, sessionmaker

CUSTOMERS = 20


class Base(DeclarativeBase):
    """The tables."""


class Order(Base):
    """What a customer has ordered."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[int]


sessions = scoped_session(sessionmaker(), scopefunc=asyncio.current_task)


async def customer(number: int) -> int:
    """Order twice, in one transaction; returns how many orders are seen afterwards."""
    try:
        sessions.add(Order(customer=number))
        sessions.flush()  # blocks until the one who writes now has committed
        time.sleep(0.005)  # asks whoever takes the money, say
        sessions.add(Order(customer=number))
        sessions.commit()
        return sessions.scalars(select(func.count(Order.id)).where(Order.customer == number)).one()
    finally:
        sessions.remove()


async def main() -> None:
    """All customers at once."""
    with tempfile.TemporaryDirectory() as directory:
        engine = create_engine(f"sqlite:///{Path(directory) / 'shop'}", connect_args={"timeout": 60})
        sessions.configure(bind=engine)
        Base.metadata.create_all(engine)
        seen = await asyncio.gather(*map(customer, range(CUSTOMERS)))
        engine.dispose()
    print(f"{len(seen)} customers with {set(seen)} orders each")


if __name__ == "__main__":
    asyncio.run(main())
