"""redis-py, sync and async side by side in one service, on a real Redis."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest
import redis

from compatibility.drivers import ENDED, UVICORN, ask, get
from compatibility.service import serving, together


@pytest.fixture
def store(redis_server: str) -> Iterator[redis.Redis]:
    """A client of the test's own, of a Redis that is empty."""
    with redis.Redis.from_url(redis_server, decode_responses=True) as client:
        client.flushall()
        yield client


def connections(store: redis.Redis, name: str) -> int:
    """How many of a client's name there are."""
    return sum(client["name"] == name for client in store.client_list())


@pytest.mark.compatibility(
    "redis", "BLPOP, publish and subscribe, sync and async, that let each other go; a stop meanwhile"
)
@pytest.mark.parametrize("number", ENDED)
def test_blocking_commands(engine: str, store: redis.Redis, redis_server: str, number: signal.Signals) -> None:
    with serving([*UVICORN, "on_redis:app"], engine=engine, REDIS=redis_server) as service:
        answers = ask(
            service, *[f"pops?key=k{n}" for n in range(5)], *[f"pushes?key=k{n}&value=v{n}" for n in range(5)]
        )
        assert answers == [f"v{n}" for n in range(5)] + ["1"] * 5
        answers = ask(service, "awaits?key=b", "relays?source=a&target=b", "pushes?key=a&value=x")
        assert answers == ["x", "x", "1"]
        assert ask(service, "subscribes", "publishes") == ["it rains,end", "2"]
        assert connections(store, "shared") <= 6

        def stops() -> str:
            while not any(client["cmd"] == "blpop" for client in store.client_list()):
                time.sleep(0.01)
            service.process.send_signal(number)
            while "Shutting down" not in service.said():
                time.sleep(0.01)
            return str(store.rpush("last", "words"))

        assert together(lambda: get(service, "pops?key=last"), stops)[0] == "words"
        service.stop_well(None, status=ENDED[number])


@pytest.mark.compatibility("redis", "locks held over awaits and blocks; a blocking pool of one connection")
def test_locks_and_pools(engine: str, store: redis.Redis, redis_server: str) -> None:
    with serving([*UVICORN, "on_redis:app"], engine=engine, REDIS=redis_server) as service:
        assert ask(service, *["locks"] * 8) == ["locked"] * 8
        assert store.get("number") == "8"
        assert sorted(int(str(answer)) for answer in ask(service, *["shares"] * 20)) == list(range(1, 21))
        assert store.get("in pipes") == "40"
        assert connections(store, "one") == 1
        service.stop_well(signal.SIGINT, status=ENDED[signal.SIGINT])
