"""redis-py, sync and async side by side.  Each handler that blocks is let go by another one, through the other kind."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry
from routes import application

URL = os.environ["REDIS"]
client = redis.Redis.from_url(URL, client_name="shared", decode_responses=True)
pool = redis.BlockingConnectionPool.from_url(URL, max_connections=1, timeout=60, client_name="one")
one = redis.Redis(connection_pool=pool, retry=Retry(NoBackoff(), 0))
async_client = redis.asyncio.Redis.from_url(URL, client_name="async", decode_responses=True)


@contextlib.asynccontextmanager
async def clients() -> AsyncIterator[None]:
    yield
    client.close()
    one.close()
    pool.disconnect()
    await async_client.aclose()


async def pops(key: str) -> str:
    """Blocks in the server, in the sync client."""
    _, value = client.blpop([key], timeout=0)
    return str(value)


async def pushes(key: str, value: str) -> str:
    """Lets it go, by the async client."""
    return str(await async_client.rpush(key, value))


async def awaits(key: str) -> str:
    """Waits in the server, in the async client."""
    _, value = await async_client.blpop([key], timeout=0)
    return str(value)


async def relays(source: str, target: str) -> str:
    """Blocks for the one, and lets the other go, all in the sync client."""
    _, value = client.blpop([source], timeout=0)
    client.rpush(target, value)
    return str(value)


async def subscribes() -> str:
    """Blocks for messages until the last one."""
    with client.pubsub() as subscription:
        subscription.subscribe("news")
        said = []
        for message in subscription.listen():
            if message["type"] == "message":
                said.append(message["data"])
                if message["data"] == "end":
                    break
    return ",".join(said)


async def publishes() -> str:
    """Tells what the other one waits for, once it listens."""
    while (await async_client.pubsub_numsub("news"))[0][1] != 1:
        await asyncio.sleep(0.01)
    async with async_client.pubsub() as subscription:
        await subscription.subscribe("news")
        await async_client.publish("news", "it rains")
        client.publish("news", "end")
        heard = 0
        async for message in subscription.listen():
            heard += message["type"] == "message"
            if heard == 2:
                break
    return str(heard)


async def locks() -> str:
    """A lock's token is kept in a thread-local: whoever has the lock takes it over an await, and lets it go."""
    lock = client.lock("lock", timeout=60, sleep=0.01)
    with lock:
        number = int(client.get("number") or 0)
        await asyncio.sleep(0)
        client.blpop(["never"], timeout=0.01)
        await async_client.set("number", number + 1)
        assert lock.owned()
    return "locked"


async def shares() -> str:
    """A pool of one connection: who finds it empty blocks until another one gives back."""
    number = one.incr("shared")
    with one.pipeline() as pipe:
        pipe.incr("in pipes").incr("in pipes")
        pipe.execute()
    return str(number)


app = application(pops, pushes, awaits, relays, subscribes, publishes, locks, shares, lifespan=clients)
