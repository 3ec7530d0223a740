"""RLocks over awaits: on a loop that moves they mean what they mean on asyncio, where one thread owns them all.

Most scenes are played on asyncio, too, and come to the same.  On ours, the LWP that a lock was acquired on is blocked
while other tasks use it: if the owner of the lock did not follow the loop, they would wait for ever.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import gc
import logging
import os
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import aiologic
import culsans
import pytest
from executors import PATIENCE, every_engine, executing
from helpers import holds, pipe, running_loop

import hybridexec
from hybridexec import HybridLoop
from hybridexec.following import rlocks

pytestmark = [pytest.mark.differs_by_engine, pytest.mark.differs_by_version]

type Scene = Callable[[], Awaitable[Any]]


@contextlib.asynccontextmanager
async def elsewhere() -> AsyncIterator[None]:
    """An LWP is blocked until the end, so another one carries the loop.  On asyncio: nothing."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, HybridLoop):
        yield
        return
    blocked: list[int] = []
    with pipe() as (reader, writer):

        async def blocks() -> None:
            blocked.append(_thread.get_ident())
            os.read(reader, 1)

        task = asyncio.create_task(blocks())
        while not blocked:  # on a loaded machine any step may be taken for one that blocks
            await asyncio.sleep(0)
        assert _thread.get_ident() not in blocked
        try:
            yield
        finally:
            os.write(writer, b"x")
        await task


def agree(scene: Scene) -> Any:
    """Play a scene on asyncio's loop and on ours: what it comes to on both."""

    async def main() -> Any:
        return await scene()

    expected = asyncio.run(main())
    assert hybridexec.run(main()) == expected
    return expected


def is_free(lock: Any) -> bool:
    """Whether a thread that owns nothing can have a lock."""
    got: list[bool] = []

    def tries() -> None:
        got.append(lock.acquire(blocking=False))
        if got[0]:
            lock.release()

    thread = threading.Thread(target=tries)
    with hybridexec.pinned():
        thread.start()
        thread.join()
    return got[0]


@contextlib.contextmanager
def acquired(lock: Any) -> Iterator[None]:
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def inside_of_with(lock: Any) -> Iterator[None]:
    with lock:
        yield


WAYS: dict[str, Callable[[Any], contextlib.AbstractContextManager[Any]]] = {
    "acquire": acquired,
    "with": lambda lock: lock,
    "condition": threading.Condition,
    "context manager": inside_of_with,
    "exit stack": lambda lock: contextlib.ExitStack(),
}
every_way = pytest.mark.parametrize("way", WAYS)


@contextlib.contextmanager
def taking(way: str, lock: Any) -> Iterator[None]:
    """Own a lock for the time of a block, in one of several ways."""
    with WAYS[way](lock) as stack:
        if isinstance(stack, contextlib.ExitStack):
            stack.enter_context(lock)
        yield


# ---------------------------------------------------------------- owned over an await


@every_way
def test_the_owner_follows_the_loop(way: str) -> None:
    """What one LWP has acquired another releases, while the first is blocked; and the other way round."""
    lock: Any = threading.RLock()

    async def scene() -> list[bool]:
        said = []
        with taking(way, lock):
            async with elsewhere():
                said.append(lock._is_owned())
                with taking(way, lock):
                    await asyncio.sleep(0)
                async with elsewhere():
                    said.append(lock._is_owned())
                said += [lock._is_owned(), is_free(lock)]
            said.append(lock._is_owned())
            async with elsewhere():
                await asyncio.sleep(0)
        async with elsewhere():
            said += [lock._is_owned(), is_free(lock)]
        return said

    assert agree(scene) == [True, True, True, False, True, False, True]


@every_way
def test_rlocks_of_two_tasks_wanted_cross_wise(way: str) -> None:
    """Bound to two LWPs the tasks would wait for each other; one thread owns both, and lets both in."""

    async def scene() -> tuple[list[str], list[str]]:
        locks = threading.RLock(), threading.RLock()
        order: list[str] = []
        owned = asyncio.Barrier(3)
        go_on = asyncio.Event()

        async def owns(number: int) -> None:
            if number:
                async with elsewhere():
                    pass
            with taking(way, locks[number]):
                await owned.wait()
                await go_on.wait()
                with taking(way, locks[1 - number]):
                    order.append(f"{number} has both")
                    await asyncio.sleep(0)
            order.append(f"{number} has none")

        tasks = [asyncio.create_task(owns(number)) for number in range(2)]
        await owned.wait()
        async with elsewhere():
            go_on.set()
            await asyncio.gather(*tasks)
        assert all(map(is_free, locks))
        return sorted(order[:2]), sorted(order[2:])

    assert agree(scene) == (["0 has both", "1 has both"], ["0 has none", "1 has none"])


def test_another_task_may_release_it() -> None:
    """Also after the task that has acquired it is done."""

    async def scene() -> bool:
        lock: Any = threading.RLock()

        async def acquires() -> None:
            lock.acquire()
            lock.acquire()

        async def releases() -> None:
            lock.release()

        await asyncio.create_task(acquires())
        async with elsewhere():
            await asyncio.create_task(releases())
            assert not is_free(lock)
        await asyncio.create_task(releases())
        return is_free(lock)

    assert agree(scene)


def test_callbacks_may_hand_it_on() -> None:
    """Callbacks that are no task's."""

    async def scene() -> bool:
        lock: Any = threading.RLock()
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: lock.acquire())
        await asyncio.sleep(0)
        async with elsewhere():
            loop.call_soon(lock.release)
            await asyncio.sleep(0)
        return is_free(lock)

    assert agree(scene)


def test_code_that_a_task_is_in_may_be_suspended_in_a_with_statement() -> None:
    """Of a generator, of an asynchronous one, of a coroutine that is awaited."""

    async def scene() -> None:
        locks = [threading.RLock() for _ in range(4)]

        def generates() -> Iterator[None]:
            with locks[0]:
                yield

        async def generates_async() -> AsyncIterator[None]:
            with locks[1]:
                await asyncio.sleep(0)
                yield

        @contextlib.asynccontextmanager
        async def manages() -> AsyncIterator[None]:
            with locks[2]:
                yield

        async def awaited() -> None:
            with locks[3]:
                async with elsewhere():
                    assert not any(map(is_free, locks))

        for _ in generates():
            async for _ in generates_async():
                async with manages():
                    await awaited()
                    async with elsewhere():
                        await asyncio.sleep(0)
        assert all(map(is_free, locks))

    agree(scene)


def test_an_eager_task_owns_it_from_its_first_step() -> None:
    async def scene() -> bool:
        lock: Any = threading.RLock()
        go_on = asyncio.Event()

        async def owns() -> None:
            with lock:
                await go_on.wait()

        task = asyncio.Task(owns(), loop=asyncio.get_running_loop(), eager_start=True)
        async with elsewhere():
            assert not is_free(lock)
            go_on.set()
            await task
        return is_free(lock)

    assert agree(scene)


def test_a_plain_thread_gets_it_when_it_is_let_go_and_keeps_it() -> None:
    """The loop that had it before leaves it alone, wherever it goes."""

    async def main() -> None:
        lock: Any = threading.RLock()
        has_it, go_on = threading.Event(), threading.Event()
        asked = threading.Event()

        def wants() -> None:
            asked.set()
            with lock:
                has_it.set()
                go_on.wait()

        thread = threading.Thread(target=wants)
        lock.acquire()
        await asyncio.sleep(0)
        async with elsewhere():
            thread.start()
            asked.wait()
            lock.release()
            has_it.wait()  # in the very step: the loop moves on while another has what was its own
            assert not lock._is_owned()
            async with elsewhere():
                assert not lock._is_owned()
                assert not lock.acquire(blocking=False)
            go_on.set()
            thread.join()
        assert lock.acquire(blocking=False)
        lock.release()

    hybridexec.run(main())


def test_after_the_run_the_home_owns_it() -> None:
    lock: Any = threading.RLock()

    async def acquires() -> None:
        async with elsewhere():
            lock.acquire()
            await asyncio.sleep(0)

    async def releases() -> None:
        async with elsewhere():
            lock.release()

    with contextlib.closing(hybridexec.new_event_loop()) as loop:
        loop.run_until_complete(acquires())
        assert lock._is_owned()
        lock.acquire()
        loop.run_until_complete(releases())
        lock.release()
        assert is_free(lock)


def test_it_is_not_kept_alive() -> None:
    async def main() -> None:
        lock: Any = threading.RLock()
        lock.acquire()
        await asyncio.sleep(0)
        assert running_loop()._reactions.affinity.rlocks.held
        gone = weakref.ref(lock)
        del lock
        async with elsewhere():
            gc.collect()
            assert gone() is None
        assert not running_loop()._reactions.affinity.rlocks.held

    hybridexec.run(main())


def test_it_binds_nobody() -> None:
    """While the LWP that it was acquired on is blocked, its task goes on elsewhere."""

    async def main() -> None:
        lock: Any = threading.RLock()
        home = _thread.get_ident()
        with lock:
            async with elsewhere():
                await asyncio.sleep(0)
                assert _thread.get_ident() != home
                assert not running_loop()._reactions.affinity.bound

    hybridexec.run(main())


# ---------------------------------------------------------------- acquired in the step that blocks


@pytest.mark.parametrize("way", ["acquire", "with"])
@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_a_step_that_blocks_keeps_what_it_has_just_acquired(way: str, again: bool) -> None:
    """Nobody could run meanwhile on asyncio; here who wants it waits, in a call that blocks like any other."""
    order: list[str] = []
    lock: Any = threading.RLock()

    async def owns(reader: int) -> None:
        if again:
            with acquired(lock):
                await asyncio.sleep(0)
        with taking("acquire" if again else way, lock):
            order.append("blocks")
            os.read(reader, 1)
            order.append("owner")
            assert lock._is_owned()

    async def wants() -> None:
        while not order:
            await asyncio.sleep(0)
        assert not lock.acquire(blocking=False)
        order.append("wants")
        with taking(way, lock):
            order.append("other")
            assert holds(asyncio.get_running_loop())

    async def main() -> None:
        with pipe() as (reader, writer):
            owner = asyncio.create_task(owns(reader))
            other = asyncio.create_task(wants())
            while "wants" not in order:
                await asyncio.sleep(0)
            order.append("third")
            os.write(writer, b"x")
            await asyncio.gather(owner, other)

    hybridexec.run(main())
    assert order == ["blocks", "wants", "third", "owner", "other"]
    assert is_free(lock)


def test_a_handler_of_logging_that_blocks() -> None:
    """Its lock is never contended on asyncio.  Here a second coroutine blocks on it, and a third goes on."""
    order: list[str] = []

    async def main() -> None:
        with pipe() as (reader, writer):

            class Blocks(logging.Handler):
                def emit(self, record: logging.LogRecord) -> None:
                    if not order:
                        order.append("blocks")
                        os.read(reader, 1)
                    order.append(record.getMessage())

            logger = logging.Logger("test")
            logger.addHandler(Blocks())

            async def logs(number: int) -> None:
                logger.warning("%d", number)
                assert holds(asyncio.get_running_loop())

            tasks = [asyncio.create_task(logs(number)) for number in range(2)]
            await asyncio.sleep(0)
            order.append("third")
            os.write(writer, b"x")
            await asyncio.gather(*tasks)

    hybridexec.run(main())
    assert order == ["blocks", "third", "0", "1"]


def test_a_region_takes_along_what_its_task_has() -> None:
    """Code in ``blocking()`` may enter what its task owns over an await, and others wait for it."""
    order: list[str] = []

    async def main() -> None:
        condition = threading.Condition()
        with pipe() as (reader, writer):

            async def owns() -> None:
                with condition:
                    await asyncio.sleep(0)
                    with hybridexec.blocking():
                        os.read(reader, 1)
                        with condition:
                            order.append("region")
                        while "other" not in order:
                            condition.wait()
                    async with elsewhere():
                        order.append("owner")

            async def other() -> None:
                assert not condition.acquire(blocking=False)
                os.write(writer, b"x")
                with condition:
                    order.append("other")
                    condition.notify()

            owner = asyncio.create_task(owns())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await asyncio.gather(owner, other())

    hybridexec.run(main())
    assert order == ["region", "other", "owner"]


@pytest.mark.parametrize("kept", ["for itself", "by a pin"])
@pytest.mark.parametrize("way", ["acquire", "condition", "exit stack"])
def test_what_a_region_acquires_is_held_beyond_it(way: str, kept: str) -> None:
    """Whoever carries the loop after an await releases it, though the LWP of the region is blocked then."""
    lock: Any = threading.RLock()
    said: list[bool] = []

    async def main() -> None:
        with contextlib.ExitStack() as stack:
            with hybridexec.pinned() if kept == "by a pin" else contextlib.nullcontext(), hybridexec.blocking():
                if way == "acquire":
                    lock.acquire()
                    stack.callback(lock.release)
                else:
                    stack.enter_context(threading.Condition(lock) if way == "condition" else lock)
            async with elsewhere():
                said.extend([lock._is_owned(), is_free(lock)])
                stack.close()
                await asyncio.sleep(0)
                said.extend([lock._is_owned(), is_free(lock)])

    hybridexec.run(main())
    assert said == [True, False, False, True]


def test_what_a_region_acquires_others_wait_for_until_its_step_is_over() -> None:
    """Acquired in a step that goes on to block behind the region, it is that step's; after an await, the loop's."""
    lock: Any = threading.RLock()
    order: list[str] = []

    async def main() -> None:
        with pipe() as (reader, writer):

            async def owns() -> None:
                with hybridexec.blocking():
                    lock.acquire()
                order.append("blocks")
                os.read(reader, 1)
                order.append("goes on")
                await asyncio.sleep(0)
                async with elsewhere():
                    lock.release()

            async def other() -> None:
                assert not lock.acquire(blocking=False)
                os.write(writer, b"x")
                lock.acquire()
                order.append("other")
                lock.release()

            owner = asyncio.create_task(owns())
            while not order:
                await asyncio.sleep(0)
            await other()
            await owner

    hybridexec.run(main())
    assert order == ["blocks", "goes on", "other"]
    assert is_free(lock)


def test_a_region_that_an_await_ends_keeps_what_it_has_acquired() -> None:
    """The statement that holds the lock goes on, wherever the loop is."""
    lock: Any = threading.RLock()
    told: list[str] = []

    async def main() -> None:
        running_loop().set_exception_handler(lambda loop, context: told.append(context["message"]))
        with hybridexec.blocking(), lock:
            await asyncio.sleep(0)
            async with elsewhere():
                assert lock._is_owned()
                assert not is_free(lock)

    hybridexec.run(main())
    assert told == ["an await inside of hybridexec.blocking() has ended it"]
    assert is_free(lock)


# ---------------------------------------------------------------- _release_save and _acquire_restore


@pytest.mark.parametrize("awaits", [False, True], ids=["just acquired", "owned over an await"])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_condition_waits_in_a_step(awaits: bool, depth: int) -> None:
    """It lets its RLock go as often as it is owned, and has it back as often, while the loop is elsewhere."""
    order: list[str] = []

    async def main() -> None:
        lock: Any = threading.RLock()
        condition = threading.Condition(lock)

        async def waits() -> None:
            with contextlib.ExitStack() as stack:
                for _ in range(depth):
                    stack.enter_context(condition)
                    if awaits:
                        async with elsewhere():
                            pass
                order.append("waits")
                while "notifies" not in order:
                    condition.wait()
                order.append("has it back")
                assert not is_free(lock)
                async with elsewhere():
                    assert not is_free(lock)
            assert is_free(lock)

        async def notifies() -> None:
            while "waits" not in order:
                await asyncio.sleep(0)
            with condition:
                await asyncio.sleep(0)
                order.append("notifies")
                condition.notify()
                async with elsewhere():
                    order.append("lets go")

        await asyncio.gather(waits(), notifies())

    hybridexec.run(main())
    assert order == ["waits", "notifies", "lets go", "has it back"]


@pytest.mark.parametrize("depth", [1, 2])
def test_what_was_let_go_for_an_await_comes_back_to_who_carries_the_loop(depth: int) -> None:
    async def scene() -> bool:
        lock: Any = threading.RLock()
        with contextlib.ExitStack() as stack:
            for _ in range(depth):
                stack.enter_context(lock)
            state = lock._release_save()
            async with elsewhere():
                assert is_free(lock)
                lock._acquire_restore(state)
                assert lock._is_owned()
                await asyncio.sleep(0)
            async with elsewhere():
                state = lock._release_save()
                await asyncio.sleep(0)
            lock._acquire_restore(state)
        return is_free(lock)

    assert agree(scene)


def test_what_was_let_go_is_waited_for() -> None:
    """It has another owner when it is to come back: that blocks, until the other lets it go."""
    order: list[str] = []

    async def main() -> None:
        lock: Any = threading.RLock()
        with pipe() as (reader, writer):

            async def restores() -> None:
                with lock:
                    state = lock._release_save()
                    async with elsewhere():
                        while "owns" not in order:
                            await asyncio.sleep(0)
                        order.append("waits")
                        lock._acquire_restore(state)
                        order.append("has it back")
                        await asyncio.sleep(0)

            async def owns() -> None:
                with acquired(lock):
                    order.append("owns")
                    os.read(reader, 1)
                    order.append("lets go")

            one = asyncio.create_task(restores())
            await asyncio.sleep(0)
            other = asyncio.create_task(owns())
            while "waits" not in order:
                await asyncio.sleep(0)
            os.write(writer, b"x")
            await asyncio.gather(one, other)
        assert is_free(lock)

    hybridexec.run(main())
    assert order == ["owns", "waits", "lets go", "has it back"]


@contextlib.asynccontextmanager
async def moving() -> AsyncIterator[None]:
    """The loop moves all the time: whoever carries it is blocked until another does so."""
    over = False

    async def moves() -> None:
        while not over:
            async with elsewhere():
                await asyncio.sleep(0)

    task = asyncio.create_task(moves())
    try:
        yield
    finally:
        over = True
        await task


COUNT = 50


def test_a_queue_of_culsans() -> None:
    """Its async side lets an RLock go for the time of an await."""

    async def scene() -> int:
        queue: culsans.Queue[int] = culsans.Queue(maxsize=2)
        got: list[int] = []

        async def produces() -> None:
            for number in range(COUNT):
                await queue.async_q.put(number)

        async def consumes() -> None:
            for _ in range(COUNT):
                got.append(await queue.async_q.get())
                queue.async_q.task_done()

        async with moving():
            await asyncio.gather(*(produces() for _ in range(2)), *(consumes() for _ in range(2)))
            await queue.async_q.join()
        await queue.aclose()
        return sum(got)

    assert agree(scene) == COUNT * (COUNT - 1)


def test_a_condition_of_aiologic_over_an_rlock() -> None:
    async def scene() -> int:
        condition = aiologic.Condition(threading.RLock())
        things: list[int] = []
        got = []

        async def produces() -> None:
            for number in range(COUNT):
                with condition:
                    things.append(number)
                    condition.notify()
                await asyncio.sleep(0)

        async def consumes() -> None:
            for _ in range(COUNT):
                with condition:
                    while not things:
                        await condition
                    got.append(things.pop())

        async with moving():
            await asyncio.gather(*(consumes() for _ in range(2)), *(produces() for _ in range(2)))
        return sum(got)

    assert agree(scene) == COUNT * (COUNT - 1)


# ---------------------------------------------------------------- several loops, the poll


@every_engine
def test_to_another_loop_it_is_contended(engine: str) -> None:
    """What a user thread owns over an await is its loop's: one of another loop waits for it."""
    lock: Any = threading.RLock()
    owned, blocked = threading.Event(), threading.Event()
    order: list[str] = []

    async def owns() -> None:
        with lock:
            owned.set()
            await asyncio.sleep(0)
            async with elsewhere():
                blocked.wait()
                order.append("lets go")

    async def wants() -> None:
        assert not lock.acquire(blocking=False)
        asyncio.get_running_loop().call_soon(blocked.set)
        with lock:
            order.append("has it")
            await asyncio.sleep(0)
            async with elsewhere():
                assert lock._is_owned()

    with executing(2, engine=engine) as executor:
        one = executor.spawn(owns)
        assert owned.wait(PATIENCE)
        other = executor.spawn(wants)  # the other loop is the less loaded
        for user_thread in (one, other):
            user_thread.result(PATIENCE)
    assert order == ["lets go", "has it"]
    assert is_free(lock)


def test_what_a_protocol_acquires_a_task_releases() -> None:
    """On uvloop its methods are called in the poll."""

    async def scene() -> bool:
        lock: Any = threading.RLock()
        made = asyncio.Event()

        class Acquires(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                lock.acquire()
                made.set()

        loop = asyncio.get_running_loop()
        with pipe() as (reader, writer):
            transport, _ = await loop.connect_read_pipe(Acquires, os.fdopen(os.dup(reader), "rb", 0))
            os.write(writer, b"x")
            await made.wait()
            async with elsewhere():
                lock.release()
            transport.close()
            await asyncio.sleep(0)
        return is_free(lock)

    assert agree(scene)


# ---------------------------------------------------------------- where it cannot follow


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """An implementation whose RLocks do not show who owns them."""
    monkeypatch.setattr(rlocks, "FOLLOW", False)


@pytest.mark.usefixtures("bound")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("restores", [False, True], ids=["owned", "let go and restored"])
def test_else_its_task_is_bound_until_it_lets_go(way: str, restores: bool) -> None:
    """Rule 6: the task waits for its LWP, that is blocked, and the others go on."""

    async def main() -> None:
        lock: Any = threading.RLock()
        home = _thread.get_ident()
        order: list[str] = []

        async def owns() -> None:
            with taking(way, lock):
                if restores:
                    state = lock._release_save()
                    try:
                        await asyncio.sleep(0)
                        await asyncio.sleep(0)
                    finally:
                        lock._acquire_restore(state)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert _thread.get_ident() == home
                order.append("owner")
            await asyncio.sleep(0)
            assert task not in running_loop()._reactions.affinity.bound

        task = asyncio.create_task(owns())
        while task not in running_loop()._reactions.affinity.bound:
            await asyncio.sleep(0)
        assert running_loop()._reactions.affinity.bound[task].ident == home
        async with elsewhere():
            for _ in range(10):
                await asyncio.sleep(0)
            order.append("others")
        await task
        assert order == ["others", "owner"]
        assert is_free(lock)

    hybridexec.run(main())


def test_an_eager_task_that_is_over_has_no_code_to_look_into() -> None:
    """3.12.1 ends with a segmentation fault if such a task is asked for its coroutine."""

    def numbers() -> Iterator[int]:
        with threading.RLock():
            yield 1

    async def eager() -> int:
        return sum(numbers())

    async def main() -> int:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        task = asyncio.create_task(eager())
        await asyncio.sleep(0)
        return task.result()

    assert hybridexec.run(main()) == 1
