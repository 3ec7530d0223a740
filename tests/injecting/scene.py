"""The scene: two dozen tasks that block in every way, and what each of them shows when all is right."""

from __future__ import annotations

import asyncio
import ctypes
import os
import queue
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Awaitable
from time import monotonic
from typing import Any

import hybridexec

LIBC = ctypes.CDLL(None)


def _slowly[T](value: T) -> T:
    time.sleep(0.008)
    return value


class Scene:
    """One run of it.

    Attributes:
        ended: the names of the tasks that have come to their end, in order.
    """

    def __init__(self) -> None:
        self.ended: list[str] = []
        self._lock = threading.Lock()
        self._rlock = threading.RLock()
        self._local = threading.local()

    async def main(self) -> dict[str, object]:
        """Run all tasks.  Returns what each has returned, or raised."""
        (one, other), (third, fourth) = socket.socketpair(), socket.socketpair()
        tasks = {
            "sleeps for 3 ms": self._sleeps(0.003),
            "sleeps for 4 ms": self._sleeps(0.004),
            "sleeps for 5 ms": self._sleeps(0.005),
            "sleeps in C": self._sleeps_in_c(),
            "sleeps in C, too": self._sleeps_in_c(),
            "has the lock": self._has_the_lock(),
            "wants the lock": self._wants_the_lock(),
            "receives": self._receives(one),
            "sends": self._sends(other),
            "receives, too": self._receives(third),
            "sends, too": self._sends(fourth),
            "echoes": self._echoes(),
            "to a thread": asyncio.to_thread(time.sleep, 0.003),
            "regions": self._regions(),
            "pinned": self._pinned(),
            "bound": self._bound(),
            "rlock": self._over_an_await(),
            "rlock, too": self._over_an_await(),
            "queries": self._queries(),
            "timers": self._timers(),
            "conditions": self._conditions(),
            "computes": self._computes(),
            "signals": self._signals(),
            "from a thread": self._from_a_thread(),
        }
        try:
            made = [asyncio.create_task(self._noted(name, step), name=name) for name, step in tasks.items()]
            results = await asyncio.gather(*made, return_exceptions=True)
        finally:
            for each in (one, other, third, fourth):
                each.close()
        return dict(zip(tasks, results, strict=True))

    async def _noted(self, name: str, coroutine: Awaitable[object]) -> object:
        try:
            return await coroutine
        finally:
            self.ended.append(name)

    async def _sleeps(self, seconds: float) -> None:
        for _ in range(3):
            time.sleep(seconds)
            await asyncio.sleep(0)

    async def _sleeps_in_c(self) -> None:
        for _ in range(2):
            LIBC.usleep(9000)
            await asyncio.sleep(0.001)

    async def _has_the_lock(self) -> None:
        with self._lock:
            await asyncio.sleep(0.005)
            time.sleep(0.002)

    async def _wants_the_lock(self) -> None:
        await asyncio.sleep(0.001)
        with self._lock:
            pass
        if self._lock.acquire(timeout=15):
            self._lock.release()

    async def _receives(self, sock: socket.socket) -> None:
        sock.settimeout(15)
        sock.recv(1)
        await asyncio.sleep(0)
        sock.recv(1)

    async def _sends(self, sock: socket.socket) -> None:
        try:
            await asyncio.sleep(0.004)
        finally:
            sock.send(b"xx")

    async def _echoes(self) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while line := await reader.readline():
                    time.sleep(0.002)
                    writer.write(line)
                    await writer.drain()
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        try:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            try:
                for n in range(3):
                    writer.write(b"%d\n" % n)
                    assert await asyncio.wait_for(reader.readline(), 15) == b"%d\n" % n
            finally:
                writer.close()
        finally:
            server.close()

    async def _regions(self) -> None:
        with hybridexec.blocking():
            time.sleep(0.004)
        await asyncio.sleep(0)
        with hybridexec.blocking():
            LIBC.usleep(2000)

    async def _pinned(self) -> None:
        with hybridexec.pinned():
            time.sleep(0.001)

    async def _bound(self) -> None:
        with hybridexec.bound():
            time.sleep(0.003)
            await asyncio.sleep(0.001)
            time.sleep(0.002)

    async def _over_an_await(self) -> None:
        with self._rlock:
            time.sleep(0.002)
            await asyncio.sleep(0.002)
            time.sleep(0.002)

    async def _queries(self) -> None:
        db = sqlite3.connect(":memory:")
        db.execute("create table t (a)")
        await asyncio.sleep(0)
        db.execute("insert into t values (1)")
        db.commit()
        db.create_function("slow", 1, _slowly)
        assert db.execute("select slow(a) from t").fetchall() == [(1,)]
        db.close()

    async def _timers(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(5):
            future = loop.create_future()
            loop.call_later(0.002, future.set_result, None)
            await future

    async def _conditions(self) -> None:
        self._local.x = 1
        items: queue.Queue[int] = queue.Queue()
        timer = threading.Timer(0.004, items.put, (1,))
        timer.start()
        assert items.get(timeout=15) == 1
        await asyncio.sleep(0)
        assert self._local.x == 1
        condition = threading.Condition()
        with condition:
            condition.wait(0.004)
        timer.join()

    async def _computes(self) -> None:
        for _ in range(3):
            end = monotonic() + 0.004
            while monotonic() < end:
                pass
            time.sleep(0.002)
            await asyncio.sleep(0)

    async def _signals(self) -> None:
        came: list[Any] = []
        time.sleep(0.004)
        signal.signal(signal.SIGUSR2, lambda *_: came.append(None))
        os.kill(os.getpid(), signal.SIGUSR2)
        await asyncio.sleep(0.003)
        time.sleep(0.001)

    async def _from_a_thread(self) -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def outside() -> None:
            time.sleep(0.004)
            loop.call_soon_threadsafe(future.set_result, None)

        thread = threading.Thread(target=outside)
        thread.start()
        await future
        thread.join()
