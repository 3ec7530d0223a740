"""What may be used between loops and plain threads: what ``docs/sync.md`` says, tried."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import queue
import threading
from typing import Any

import pytest
from executors import PATIENCE, every_moving, executing, forever, in_state

from hybridexec import UserThreadState


@every_moving
@pytest.mark.parametrize("plain", [False, True], ids=["user thread", "plain thread"])
@pytest.mark.parametrize("kind", ["Lock", "RLock", "Event", "Condition", "Semaphore", "Barrier", "Queue", "Future"])
def test_what_a_thread_may_wait_for_a_user_thread_may(options: dict[str, Any], kind: str, plain: bool) -> None:
    """One waits until it blocks; another user thread, or a plain thread, lets it go on."""
    lock = threading.Lock()
    rlock = threading.RLock()
    event = threading.Event()
    condition = threading.Condition()
    semaphore = threading.Semaphore(0)
    barrier = threading.Barrier(2)
    things: queue.Queue[str] = queue.Queue()
    future: concurrent.futures.Future[str] = concurrent.futures.Future()
    said: list[str] = []

    def waits() -> None:
        match kind:
            case "Lock":
                lock.acquire()
            case "RLock":
                with rlock:
                    pass
            case "Event":
                event.wait()
            case "Condition":
                with condition:
                    while not said:
                        condition.wait()
            case "Semaphore":
                semaphore.acquire()
            case "Barrier":
                barrier.wait()
            case "Queue":
                things.get()
            case "Future":
                future.result()

    async def waits_async() -> str:
        waits()
        await asyncio.sleep(0)
        return "went on"

    def lets_go() -> None:
        match kind:
            case "Lock":
                lock.release()
            case "Event":
                event.set()
            case "Condition":
                with condition:
                    said.append("go")
                    condition.notify()
            case "Semaphore":
                semaphore.release()
            case "Barrier":
                barrier.wait()
            case "Queue":
                things.put("go")
            case "Future":
                future.set_result("go")

    lock.acquire()
    with executing(**options) as executor, contextlib.ExitStack() as stack:
        if kind == "RLock":
            stack.enter_context(rlock)
        waiting = [executor.spawn(waits_async)]
        in_state(waiting[0], UserThreadState.BLOCKED)
        if kind == "RLock":
            stack.close()
        elif plain:
            thread = threading.Thread(target=lets_go)
            thread.start()
            thread.join()
        else:
            executor.submit(lets_go).result(PATIENCE)
        assert waiting[0].result(PATIENCE) == "went on"


@every_moving
def test_a_queue_between_user_threads_on_any_loops_and_plain_threads(options: dict[str, Any]) -> None:
    things: queue.Queue[int | None] = queue.Queue(maxsize=2)  # so that both sides block
    count = 200

    async def produces(base: int) -> None:
        for number in range(count):
            things.put(base + number)
            await asyncio.sleep(0)

    async def consumes() -> list[int]:
        got = []
        while (number := things.get()) is not None:
            got.append(number)
            await asyncio.sleep(0)
        return got

    with executing(**options) as executor:
        consumers = [executor.submit(consumes) for _ in range(3)]
        producers = [executor.submit(produces, base) for base in (0, 1000)]

        def produces_too() -> None:
            for number in range(count):
                things.put(2000 + number)

        thread = threading.Thread(target=produces_too)
        thread.start()
        concurrent.futures.wait(producers, PATIENCE)
        thread.join(PATIENCE)
        for _ in consumers:
            things.put(None)
        got = sorted(number for future in consumers for number in future.result(PATIENCE))
    assert got == [base + number for base in (0, 1000, 2000) for number in range(count)]


@every_moving
def test_a_lock_guards_what_user_threads_share(options: dict[str, Any]) -> None:
    """Also where the guarded code blocks, and where it awaits."""
    lock = threading.Lock()
    value = 0

    async def adds() -> None:
        nonlocal value
        for _ in range(5):
            with lock:
                seen = value
                await asyncio.sleep(0)
                threading.Event().wait(0.0005)
                value = seen + 1

    with executing(**options) as executor:
        concurrent.futures.wait([executor.submit(adds) for _ in range(8)], PATIENCE)
    assert value == 40


@pytest.mark.parametrize("kind", ["Lock", "Event", "Queue", "Semaphore", "Future"])
def test_asyncios_own_across_loops_give_asyncios_own_error(kind: str) -> None:
    made: list[Any] = []

    async def uses(index: int) -> None:
        thing = made[0]
        match kind:
            case "Lock" | "Semaphore":
                await thing.acquire()
            case "Event":
                await thing.wait()
            case "Queue":
                await thing.get()
            case "Future":
                await thing

    async def first() -> None:
        loop = asyncio.get_running_loop()
        makers: dict[str, Any] = {
            "Lock": asyncio.Lock,
            "Event": asyncio.Event,
            "Queue": asyncio.Queue,
            "Semaphore": lambda: asyncio.Semaphore(0),
            "Future": loop.create_future,
        }
        made.append(makers[kind]())
        if kind == "Lock":
            await made[0].acquire()
        await uses(0)

    with executing(2) as executor:
        one = executor.spawn(first)
        in_state(one, UserThreadState.WAITING)
        other = executor.spawn(uses, 1)  # the other loop is the less loaded
        with pytest.raises(RuntimeError, match=r"different (event )?loop"):
            other.result(PATIENCE)
        one.cancel()


def test_asyncios_own_serve_within_one_loop() -> None:
    async def waits(event: asyncio.Event) -> str:
        await event.wait()
        return "went on"

    async def sets(event: asyncio.Event) -> None:
        event.set()

    with executing(1) as executor:
        event = asyncio.Event()
        waiting = executor.spawn(waits, event)
        in_state(waiting, UserThreadState.WAITING)
        executor.submit(sets, event).result(PATIENCE)
        assert waiting.result(PATIENCE) == "went on"
        other = executor.spawn(forever)
        in_state(other, UserThreadState.WAITING)
        other.cancel()
