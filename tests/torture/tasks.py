"""What the tasks of the torture do, and what they look at while they do it (``torture.py`` runs them).

None of it can end in a deadlock that asyncio's rules allow: nobody blocks on what a task bound to the same LWP does.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import ctypes
import gc
import os
import queue
import random
import socket
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import hybridexec

from .shared import LIBC, Broken, Garbage, Oops, Point, Shared, settle


class Slow(asyncio.Protocol):
    """Blocks whenever something is received, while more may come; it is not called again before it is through."""

    def __init__(self, worker: Worker, expected: bytes) -> None:
        self.worker = worker
        self.missing = expected
        self.received: asyncio.Future[str] = worker.shared.loop.create_future()
        self.inside = False

    def data_received(self, data: bytes) -> None:
        """Take some bytes, and block."""
        self.worker.shared.look()
        if self.inside or not self.missing.startswith(data):
            raise Broken(f"a protocol got {data!r}, inside={self.inside}, missing {self.missing!r}")
        self.inside = True
        self.worker.block(moves=self.worker.shared.loop._claimable)
        self.worker.shared.look()
        self.inside = False
        self.missing = self.missing[len(data) :]
        if not self.missing:
            settle(self.received, self.worker.name)


class Watching:
    """A reader or a writer of a socket of its own, which blocks now and then.

    It is called only as long as it is registered, when its socket is ready, and not again before it is through.
    """

    def __init__(self, worker: Worker, sock: socket.socket, *, writes: bool) -> None:
        self.worker = worker
        self.sock = sock
        self.left = worker.rng.randrange(1, 4)
        self.enough: asyncio.Future[str] = worker.shared.loop.create_future()
        self.registered = True
        self.inside = False
        self.writes = writes
        loop = worker.shared.loop
        add, self.remove = (loop.add_writer, loop.remove_writer) if writes else (loop.add_reader, loop.remove_reader)
        add(sock.fileno(), self)

    def __call__(self) -> None:
        """Take or give one byte, and block before or behind that."""
        self.worker.shared.look()
        # A slice may have ended, and somebody else have removed it, on the way to this line.
        may_have_moved = self.worker.shared.preempts or self.worker.shared.surprises
        if self.inside or not (self.registered or may_have_moved):
            raise Broken(f"{self.worker.name}'s callback: inside={self.inside}, registered={self.registered}")
        self.inside = True
        blocks = self.worker.rng.randrange(4)
        if blocks == 0:
            self.worker.block()
        if self.registered:
            try:
                self.sock.send(b"x") if self.writes else self.sock.recv(1)
            except BlockingIOError as exc:
                raise Broken("a callback of a descriptor that is not ready") from exc
            self.left -= 1
        if blocks == 1:
            self.worker.block()
        self.worker.shared.look()
        self.inside = False
        if not self.left and self.registered:
            self.end()
            settle(self.enough, self.worker.name)

    def end(self) -> None:
        """It is no longer registered."""
        with hybridexec.pinned():  # what is noted, and what is so, are one
            if self.registered:
                self.registered = False
                if not self.remove(self.sock.fileno()):
                    raise Broken("a descriptor was not watched")

    def replaced(self) -> None:
        """Somebody else is registered in its place."""
        self.registered = False


class Worker:
    """A task that does some random things one after the other."""

    def __init__(self, shared: Shared, name: str, depth: int = 0) -> None:
        self.shared = shared
        self.name = name
        self.depth = depth
        self.rng = random.Random(name)
        self.point: Point

    async def run(self, actions: int) -> str:
        """Returns its name, unless it was cancelled."""
        self.shared.begun[self.name] += 1
        self.point = Point(self.shared, self.name)
        self.point.__exit__(None, None, None)
        try:
            choice = SIMPLE * 2 + (() if self.shared.plan.alone else DEPENDENT) + (NESTING if self.depth < 2 else ())
            for _ in range(actions):
                await self.rng.choice(choice)(self)
            return self.name
        finally:
            self.shared.ended[self.name] += 1
            self.point.__enter__()

    def short(self, most: float = 0.004) -> float:
        """Some seconds: none, very few, or few."""
        return self.rng.choice([0.0, self.rng.random() * 0.001, self.rng.random() * most])

    def block(self, *, moves: bool = True) -> None:
        """Block for a short time, somehow; nobody else is needed for its end.

        Args:
            moves: whether the loop can leave: not if its engine has called from inside of its poll.
        """
        seconds = self.short(0.012)
        match self.rng.randrange(6):
            case 0 | 1:
                time.sleep(seconds)
            case 2 | 3:
                LIBC.usleep(int(seconds * 1e6))
            case 4:
                threading.Event().wait(seconds)
            case _:
                with hybridexec.blocking():
                    LIBC.usleep(int(seconds * 1e6))
                    sum(range(1000))
                    if moves and asyncio._get_running_loop() is not None:
                        raise Broken("a running loop in blocking()")

    # ---------------------------------------------------------------- what needs nobody else

    async def yields(self) -> None:
        for _ in range(self.rng.randrange(1, 4)):
            with self.point:
                await asyncio.sleep(0)

    async def sleeps(self) -> None:
        with self.point:
            await asyncio.sleep(self.short())

    async def blocks(self) -> None:
        with self.point:
            self.block()

    async def raises(self) -> None:
        try:
            with self.point:
                self.block()
                raise Oops(self.name)
        except Oops as exc:
            if str(exc) != self.name:
                raise Broken(f"{self.name} got {exc!r}") from exc

    async def fails_in_a_call(self) -> None:
        one, other = socket.socketpair()
        with one, other:
            one.settimeout(self.rng.choice([0.0005, 0.003, 0.01]))
            try:
                with self.point:
                    got = one.recv(1)
            except TimeoutError:
                self.shared.look()
            else:
                raise Broken(f"{self.name} got {got!r}")

    async def computes(self) -> None:
        until = time.monotonic() + self.rng.choice([0.001, 0.004, 0.015 if self.shared.preempts else 0])
        while time.monotonic() < until:
            self.shared.look()

    async def is_pinned(self) -> None:
        with hybridexec.pinned():
            time.sleep(self.short())
            LIBC.usleep(300)
            self.shared.look()
            if self.rng.random() < 0.3:
                with self.point:
                    await asyncio.sleep(0)
                time.sleep(self.short())

    async def is_bound(self) -> None:
        with hybridexec.bound():
            await self.stays()

    async def owns_an_rlock(self) -> None:
        lock: Any = self.rng.choice(self.shared.rlocks)
        with self.point:
            got = lock.acquire(timeout=0.005)
        if got:
            try:
                for _ in range(self.rng.randrange(1, 4)):
                    with self.point:
                        await asyncio.sleep(self.short())
                    with self.point:
                        self.block()
                    if not lock._is_owned():
                        raise Broken(f"the RLock of {self.name} has not followed the loop")
            finally:
                lock.release()

    async def stays(self) -> None:
        ident = _thread.get_ident()
        for _ in range(self.rng.randrange(1, 4)):
            with self.point:
                await asyncio.sleep(self.short())
            with self.point:
                self.block()
            if _thread.get_ident() != ident:
                raise Broken(f"{self.name} is bound, and has moved")

    async def uses_a_thread(self) -> None:
        number, seconds, loop = self.rng.randrange(1000), self.short(), self.shared.loop

        def work() -> int:
            time.sleep(seconds)
            return number

        with self.point:
            got = await (asyncio.to_thread(work) if self.rng.random() < 0.5 else loop.run_in_executor(None, work))
        if got != number:
            raise Broken(f"a thread returned {got}, not {number}")

    async def calls_back(self) -> None:
        loop, shared, seconds = self.shared.loop, self.shared, self.short(0.01)
        choice = self.rng.randrange(6)
        shared.callbacks += choice > 1
        match choice:
            case 0:
                loop.call_soon(LIBC.usleep, int(seconds * 1e6))
                loop.call_soon(time.sleep, 0.002)
            case 1:
                loop.call_later(self.short(), LIBC.usleep, int(seconds * 1e6))
            case 2:
                loop.call_soon(shared.callback)
            case 3:
                loop.call_soon(shared.callback, lambda: time.sleep(seconds))
            case 4:
                loop.call_later(self.short(), shared.callback, lambda: LIBC.usleep(int(seconds * 1e6)))
            case _:
                with self.point:
                    shared.start(threading.Thread(target=loop.call_soon_threadsafe, args=(shared.callback,)))

    async def waits_for_a_future(self) -> None:
        loop = self.shared.loop
        future: asyncio.Future[str] = loop.create_future()
        if self.rng.random() < 0.5:
            loop.call_later(self.short(), settle, future, self.name)
        else:
            with self.point:
                args = settle, future, self.name
                self.shared.start(threading.Thread(target=loop.call_soon_threadsafe, args=args))
        with self.point:
            got = await future
        if got != self.name:
            raise Broken(f"a future had {got}")

    async def is_in_time_or_late(self) -> None:
        if self.shared.preempts and sys.version_info < (3, 13):
            return  # a timeout that fires behind the last await of its body shows at the next one, before 3.13
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.short()):
                with self.point:
                    self.block()
                await self.sleeps()
                await self.yields()

    async def iterates(self) -> None:
        numbers = self.numbers(5)
        stop = self.rng.randrange(8)
        expected = 0
        async for number in numbers:
            if number != expected:
                raise Broken("a generator has skipped something")
            expected += 1
            if number == stop:
                break
        if self.rng.random() < 0.7:
            with self.point:
                await numbers.aclose()

    async def numbers(self, most: int) -> AsyncGenerator[int]:
        for number in range(most):
            await self.rng.choice([self.blocks, self.sleeps])()
            yield number

    async def leaves_garbage(self) -> None:
        for _ in range(5):
            Garbage()
        if self.rng.random() < 0.1:
            with self.point:
                gc.collect()  # a call in C that may last: to the detector it stands still

    # ---------------------------------------------------------------- what another task has to end

    async def holds_a_lock(self) -> None:
        """Take a lock and hold it across awaits: who wants it meanwhile blocks."""
        lock = self.rng.choice(self.shared.locks)
        if self.rng.random() < 0.5:
            with self.point:
                lock.acquire()
            try:
                await self.sleeps()
                await self.blocks()
            finally:
                lock.release()
        else:
            self.point.__enter__()
            with lock:
                self.point.__exit__(None, None, None)
                await self.sleeps()

    async def reads(self) -> None:
        """Read what another task writes, by a declared or an undeclared call."""
        one, other = socket.socketpair()
        with one, other:
            writer = asyncio.create_task(self.writes(other, self.short()))
            with self.point:
                match self.rng.randrange(4):
                    case 0:
                        got = os.read(one.fileno(), 1)
                    case 1:
                        got = one.recv(1)
                    case 2:
                        buffer = ctypes.create_string_buffer(1)
                        while LIBC.read(one.fileno(), buffer, 1) < 0:  # a signal
                            self.shared.look()
                        got = buffer.raw
                    case _:
                        with hybridexec.blocking():
                            got = os.read(one.fileno(), 1)
            if got != b"x":
                raise Broken(f"read {got!r}")
            with self.point:
                await writer

    async def writes(self, sock: socket.socket, delay: float) -> None:
        if delay:
            await asyncio.sleep(delay)
        self.shared.look()
        sock.send(b"x")

    async def gets(self) -> None:
        """From a queue of threads, in which a timer puts something."""
        items: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.shared.loop.call_later(self.short(), items.put, self.name)
        with self.point:
            got = items.get()
        if got != self.name:
            raise Broken(f"got {got}")

    async def passes_on(self) -> None:
        """Through a queue of asyncio: whoever puts something gets something, another's maybe."""
        self.shared.queue.put_nowait(1)
        self.shared.put += 1
        with self.point:
            got = await self.shared.queue.get()
        self.shared.got += got

    async def talks(self) -> None:
        """Through the loop's own I/O."""
        one, other = socket.socketpair()
        one.setblocking(False)
        other.setblocking(False)
        loop, data = self.shared.loop, self.name.encode() * self.rng.choice([1, 1, 5000])
        with one, other:
            sender = asyncio.create_task(loop.sock_sendall(other, data))
            got = 0
            try:
                while got < len(data):
                    with self.point:
                        chunk = await loop.sock_recv(one, 65536)
                    if not chunk:
                        raise Broken("a socket was closed")
                    got += len(chunk)
                    if self.rng.random() < 0.2:
                        await self.blocks()
            finally:
                sender.cancel()
                with self.point:
                    await asyncio.wait([sender])

    async def receives(self) -> None:
        """Through a transport, whose protocol blocks."""
        one, other = socket.socketpair()
        data = self.rng.randbytes(self.rng.randrange(1, 6))
        with other:
            with self.point:
                transport, protocol = await self.shared.loop.create_connection(lambda: Slow(self, data), sock=one)
            try:
                for n in range(len(data)):
                    with self.point:
                        other.send(data[n : n + 1])
                    await self.rng.choice([self.yields, self.sleeps])()
                with self.point:
                    got = await protocol.received
                if got != self.name:
                    raise Broken(f"a protocol had {got}")
            finally:
                transport.abort()

    async def watches(self) -> None:
        """A descriptor, which is given to others, or closed and its number reused, while its callback may be away."""
        writes = self.rng.random() < 0.3
        one, other = socket.socketpair()
        now: Watching | None = None
        try:
            for _ in range(self.rng.randrange(1, 6)):
                with hybridexec.pinned():
                    if now is None or self.rng.random() < 0.5:
                        if now is not None:
                            now.end()
                        one.close()
                        other.close()
                        one, other = socket.socketpair()  # the numbers that were free just now, as a rule
                        one.setblocking(False)
                    else:
                        now.replaced()
                    now = Watching(self, one, writes=writes)
                other.send(b"xxx")
                await self.rng.choice([self.yields, self.sleeps, self.blocks])()
            if now is not None:
                with self.point:
                    got = await now.enough
                if got != self.name:
                    raise Broken(f"a callback of a descriptor had {got}")
        finally:
            if now is not None:
                now.end()
            one.close()
            other.close()

    # ---------------------------------------------------------------- what has tasks of its own

    def child(self, number: int) -> Worker:
        return Worker(self.shared, f"{self.name}.{self.rng.randrange(1 << 30)}-{number}", self.depth + 1)

    async def has_children(self) -> None:
        children = [self.child(n) for n in range(self.rng.randrange(1, 4))]
        tasks = [asyncio.create_task(child.run(self.rng.randrange(4)), name=child.name) for child in children]
        with self.point:
            got = await asyncio.gather(*tasks)
        if got != [child.name for child in children]:
            raise Broken(f"children returned {got}")

    async def cancels(self) -> None:
        child = self.child(0)
        task = asyncio.create_task(child.run(20), name=child.name)
        await self.rng.choice([self.yields, self.sleeps, self.blocks])()
        task.cancel()
        with self.point:
            await asyncio.wait([task])
        if not task.cancelled() and task.result() != child.name:
            raise Broken(f"a cancelled task has ended as {task}")

    async def groups(self) -> None:
        fails = self.rng.random() < 0.5
        children = [self.child(n) for n in range(self.rng.randrange(1, 4))]
        with self.point:
            raised = await self.group(children, fails)
        if raised != ([self.name] if fails else []):
            raise Broken(f"a group raised {raised}, fails={fails}")

    async def group(self, children: list[Worker], fails: bool) -> list[str]:
        try:
            async with asyncio.TaskGroup() as group:
                for child in children:
                    group.create_task(child.run(2), name=child.name)
                if fails:
                    group.create_task(self.fails())
        except ExceptionGroup as exc:
            return [str(e) for e in exc.exceptions]
        return []

    async def fails(self) -> None:
        await asyncio.sleep(self.short())
        self.block()
        self.shared.look()
        raise Oops(self.name)


SIMPLE: tuple[Callable[[Worker], Any], ...] = (
    Worker.yields,
    Worker.sleeps,
    Worker.blocks,
    Worker.raises,
    Worker.fails_in_a_call,
    Worker.computes,
    Worker.is_pinned,
    Worker.is_bound,
    Worker.owns_an_rlock,
    Worker.uses_a_thread,
    Worker.calls_back,
    Worker.waits_for_a_future,
    Worker.is_in_time_or_late,
    Worker.iterates,
    Worker.leaves_garbage,
    Worker.passes_on,
    Worker.talks,
    Worker.receives,
    Worker.watches,
)
DEPENDENT: tuple[Callable[[Worker], Any], ...] = (Worker.holds_a_lock, Worker.reads, Worker.gets)
NESTING: tuple[Callable[[Worker], Any], ...] = (Worker.has_children, Worker.cancels, Worker.groups)
