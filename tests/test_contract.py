"""The contract: seven rules, each with tests named for it.

That the loop has moved is proved by causality: a step blocks on what only another task of the same loop can release.
"""

from __future__ import annotations

import _thread
import asyncio
import collections
import contextvars
import functools
import os
import random
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import Any

import greenlet
import pytest
from helpers import (
    LIBC,
    Recorder,
    Witness,
    fill,
    fresh,
    here,
    holds,
    lwps,
    pipe,
    play,
    play_strictly,
    quick_switches,
    running_loop,
)

import hybridexec
from hybridexec import Detection, UpcallKind
from hybridexec.protocol.lwp import LWP, LwpState

pytestmark = [pytest.mark.differs_by_engine, pytest.mark.differs_by_version]


def spin_until(condition: Callable[[], bool]) -> None:
    """Keep the loop until another thread has come to where it shall be."""
    while not condition():
        pass


# ---------------------------------------------------------------- rule 1: one carrier


def test_rule1_no_two_steps_of_a_loop_run_at_once() -> None:
    inside = 0
    entered = 0
    seed = random.randrange(2**32)
    print(f"seed={seed}")

    def section() -> None:
        nonlocal inside, entered
        assert inside == 0, f"seed={seed}"
        inside += 1
        for _ in range(20):
            assert inside == 1, f"seed={seed}"
        inside -= 1
        entered += 1

    async def worker(rng: random.Random) -> None:
        for _ in range(8):
            section()
            match rng.randrange(5):
                case 0:
                    await asyncio.sleep(0)
                case 1:
                    await asyncio.sleep(rng.random() * 0.005)
                case 2:
                    time.sleep(rng.random() * 0.005)
                case 3:
                    LIBC.usleep(rng.randrange(20_000))
                case _:
                    with hybridexec.blocking():
                        LIBC.usleep(rng.randrange(2_000))
            section()

    async def main() -> int:
        await asyncio.gather(*(worker(random.Random(seed + n)) for n in range(25)))
        return running_loop().stats().handoffs

    with quick_switches():
        assert hybridexec.run(main()) > 0
    assert entered == 25 * 8 * 2


def test_rule1_a_blocked_lwp_runs_no_other_step() -> None:
    with pipe() as (reader, writer):
        home: LWP | None = None
        others: list[LWP] = []

        async def blocks() -> None:
            nonlocal home
            home = here()
            os.read(reader, 1)

        async def others_go_on() -> None:
            for _ in range(50):
                others.append(here())
                await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            others.append(here())
            os.write(writer, b"x")

        async def main() -> None:
            await asyncio.gather(blocks(), others_go_on())

        hybridexec.run(main())
        assert len(others) == 51
        assert home not in others


# ---------------------------------------------------------------- rule 2: no code runs without the loop


def test_rule2_declared_sure() -> None:
    with pipe() as (reader, writer):

        def body(witness: Witness) -> None:
            os.read(reader, 1)
            witness.returned = True

        recorder = play_strictly(body, lambda: os.write(writer, b"x"))
        assert recorder.detections() == [Detection.DECLARED]


def test_rule2_declared_sure_that_raises() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.02)

        def body(witness: Witness) -> None:
            try:
                ours.recv(1)
            except TimeoutError:
                witness.returned = True

        recorder = play_strictly(body)
        assert recorder.detections() == [Detection.DECLARED]


def test_rule2_declared_marked() -> None:
    with pipe() as (reader, writer):

        def body(witness: Witness) -> None:
            select.select([reader], [], [])
            witness.returned = True

        recorder = play_strictly(body, lambda: os.write(writer, b"x"))
        assert recorder.detections() == [Detection.DECLARED]


def test_rule2_declared_marked_that_raises() -> None:
    with pipe() as (reader, writer):
        fill(writer)

        def body(witness: Witness) -> None:
            try:
                os.write(writer, b"x")
            except BrokenPipeError:
                witness.returned = True

        recorder = play_strictly(body, lambda: os.close(reader))
        assert recorder.detections() == [Detection.DECLARED]


def test_rule2_declared_in_the_middle_of_an_expression() -> None:
    with pipe() as (reader, writer):

        def body(witness: Witness) -> None:
            witness.returned = bool(os.read(reader, 1))

        play_strictly(body, lambda: os.write(writer, b"x"))


def test_rule2_discovered_sleep_through_ctypes() -> None:
    def body(witness: Witness) -> None:
        LIBC.usleep(150_000)
        witness.returned = True

    # The one who keeps the loop has to be still at it when the call returns.
    deadline = monotonic() + 0.2
    recorder = play_strictly(body, lambda: spin_until(lambda: monotonic() > deadline))
    assert recorder.detections() == [Detection.DISCOVERED]


def test_rule2_discovered_pipe_read_that_nobody_declared() -> None:
    with pipe() as (reader, writer):

        def body(witness: Witness) -> None:
            LIBC.read(reader, bytes(1), 1)
            witness.returned = True

        recorder = play_strictly(body, lambda: os.write(writer, b"x"))
        assert recorder.detections() == [Detection.DISCOVERED]


def test_rule2_discovered_with_statement_of_a_lock() -> None:
    lock = threading.Lock()
    lock.acquire()

    def body(witness: Witness) -> None:
        with lock:
            witness.returned = True

    recorder = play_strictly(body, lock.release)
    assert recorder.detections() in ([Detection.DISCOVERED], [Detection.DECLARED])  # since 3.14 it is an event


def test_rule2_discovered_iteration_over_a_file() -> None:
    with pipe() as (reader, writer), open(reader, closefd=False) as lines:

        def body(witness: Witness) -> None:
            for _ in lines:
                witness.returned = True
                break

        recorder = play_strictly(body, lambda: os.write(writer, b"a line\n"))
        assert recorder.detections() == [Detection.DISCOVERED]


def test_rule2_discovered_call_that_raises_into_its_own_frame() -> None:
    with pipe() as (reader, writer), open(writer, "wb", buffering=0, closefd=False) as file:
        fill(writer)

        def body(witness: Witness) -> None:
            try:
                file.write(b"x")
            except BrokenPipeError:
                witness.returned = True

        recorder = play_strictly(body, lambda: os.close(reader))
        assert recorder.detections() == [Detection.DISCOVERED]


def test_rule2_discovered_call_that_raises_into_its_caller() -> None:
    with pipe() as (reader, writer), open(writer, "wb", buffering=0, closefd=False) as file:
        fill(writer)

        def inner() -> None:
            file.write(b"x")

        def body(witness: Witness, inner: Callable[[], None] = fresh(inner)) -> None:  # noqa: B008
            try:
                inner()
            except BrokenPipeError:
                witness.returned = True

        recorder = play_strictly(body, lambda: os.close(reader))
        assert recorder.detections() == [Detection.DISCOVERED]


def test_rule2_discovered_last_call_of_a_function() -> None:
    """Nothing of the innermost frame is left but its return: what runs next is its caller."""
    with pipe() as (reader, writer):
        read: Callable[[], int] = lambda: LIBC.read(reader, bytes(1), 1)  # noqa: E731

        def body(witness: Witness, read: Callable[[], int] = fresh(read)) -> None:  # noqa: B008
            witness.returned = read() == 1

        recorder = play_strictly(body, lambda: os.write(writer, b"x"))
        assert recorder.detections() == [Detection.DISCOVERED]


def test_rule2_discovered_c_call_that_calls_back_into_python() -> None:
    """C code blocks, and calls a Python function before it returns."""
    import sqlite3

    connection = sqlite3.connect(":memory:")
    held: list[bool] = []
    loop: asyncio.AbstractEventLoop | None = None
    count = 400_000
    query = "with recursive c(x) as (select 1 union all select x + 1 from c where x < ?) select f(count(*)) from c"

    def called_back(value: int) -> int:
        assert loop is not None
        held.append(holds(loop))
        return value

    async def blocks() -> Any:
        return connection.execute(query, (count,)).fetchone()

    async def keeps_the_loop_busy(done: list[bool]) -> None:
        while not done:
            with hybridexec.pinned():
                before = len(held)
                until = monotonic() + 0.005
                while monotonic() < until:
                    assert len(held) == before
            await asyncio.sleep(0)

    async def main() -> None:
        nonlocal loop
        loop = asyncio.get_running_loop()
        connection.create_function("f", 1, called_back)
        done: list[bool] = []
        busy = asyncio.create_task(keeps_the_loop_busy(done))
        await asyncio.sleep(0)
        assert await asyncio.create_task(fresh(blocks)()) == (count,)
        done.append(True)
        await busy

    with quick_switches():
        hybridexec.run(main(), threshold=0.001)
    assert held == [True]
    connection.close()


def test_rule2_discovered_learned_the_second_time() -> None:
    """A call site that the sampler has found is declared from then on, and as strict."""
    with pipe() as (reader, writer):

        def read() -> int:
            return LIBC.read(reader, bytes(1), 1)

        def body(witness: Witness, read: Callable[[], int] = fresh(read)) -> None:  # noqa: B008
            read()
            witness.returned = True

        first = play_strictly(body, lambda: os.write(writer, b"x"))
        second = play_strictly(body, lambda: os.write(writer, b"x"))
        assert first.detections() == [Detection.DISCOVERED]
        assert second.detections() == [Detection.DECLARED]


def test_rule2_discovered_site_that_was_learned_and_then_calls_python() -> None:
    """The place is known to block, but what is called there now is another thing: Python code, by way of C."""
    with pipe() as (reader, writer):

        def calls(what: Callable[[], object]) -> object:
            return what()

        site = fresh(calls)
        block = functools.partial(os.read, reader, 1)
        held: list[bool] = []

        def python() -> None:
            held.append(holds(asyncio.get_running_loop()))
            for _ in range(1000):
                held.append(holds(asyncio.get_running_loop()))

        async def main() -> None:
            asyncio.get_running_loop().call_soon(os.write, writer, b"x")
            site(block)
            spinner = asyncio.create_task(spins())
            await asyncio.sleep(0)
            site(functools.partial(python))
            await spinner

        async def spins() -> None:
            for _ in range(20):
                await asyncio.sleep(0)

        with quick_switches():
            hybridexec.run(main())
        assert held == [True] * 1001


def test_rule2_explicit() -> None:
    with pipe() as (reader, writer):

        def body(witness: Witness) -> None:
            with hybridexec.blocking():
                os.read(reader, 1)
            witness.returned = True

        recorder = play_strictly(body, lambda: os.write(writer, b"x"))
        assert recorder.detections() == [Detection.EXPLICIT]


def test_rule2_many_tasks_in_the_same_code() -> None:
    """The trap of one code object stays until its last step has come back."""
    with pipe() as (reader, writer):
        inside = 0
        finished = 0

        async def blocks() -> None:
            nonlocal inside, finished
            LIBC.read(reader, bytes(1), 1)
            inside += 1
            until = monotonic() + 0.002
            while monotonic() < until:
                assert inside == 1
            inside -= 1
            finished += 1

        async def releases() -> None:
            with hybridexec.pinned():
                os.write(writer, b"x" * 12)

        async def main() -> None:
            tasks = [asyncio.create_task(blocks()) for _ in range(12)]
            await asyncio.gather(*tasks, asyncio.create_task(releases()))

        with quick_switches():
            hybridexec.run(main())
        assert finished == 12


def test_rule2_preempted() -> None:
    counter = 0
    done = False
    checks = 0

    async def computes() -> None:
        nonlocal counter
        while not done:
            counter += 1

    async def keeps_the_loop() -> None:
        nonlocal done, checks
        for _ in range(4):
            with hybridexec.pinned():
                before = counter
                until = monotonic() + 0.02
                while monotonic() < until:
                    assert counter == before
                checks += 1
            await asyncio.sleep(0)
        done = True

    async def main() -> int:
        await asyncio.gather(computes(), keeps_the_loop())
        return running_loop().stats().upcalls[UpcallKind.PREEMPTED]

    with quick_switches():
        assert hybridexec.run(main(), preempt=0.01) > 0
    assert checks == 4
    assert counter > 0


def test_rule2_preempted_steps_never_run_at_once() -> None:
    """What one bytecode instruction may tear apart, preemption may; what is pinned, it may not."""
    total = 0
    rounds = 3000

    async def adds() -> None:
        nonlocal total
        for _ in range(rounds):
            with hybridexec.pinned():
                value = total
                value += 1
                total = value

    async def main() -> None:
        await asyncio.gather(*(adds() for _ in range(4)))

    with quick_switches():
        hybridexec.run(main(), preempt=0.005)
    assert total == 4 * rounds


# ---------------------------------------------------------------- rule 3: order


def test_rule3_the_ready_queue_stays_fifo() -> None:
    with pipe() as (reader, writer):
        order: list[int] = []

        def callback(number: int) -> None:
            if number in (10, 40, 41):
                os.read(reader, 1)
            elif number == 77:
                time.sleep(0.002)
            order.append(number)
            if number == 190:
                os.write(writer, b"xxx")  # on a busy machine this may last, too

        async def main() -> None:
            loop = asyncio.get_running_loop()
            for number in range(200):
                loop.call_soon(callback, number)
            while len(order) < 200:
                await asyncio.sleep(0)

        hybridexec.run(main())
        quick = [number for number in order if number not in (10, 40, 41, 77)]
        assert quick == [number for number in range(200) if number not in (10, 40, 41, 77)]
        assert sorted(order) == list(range(200))


def test_rule3_returning_steps_go_on_in_the_order_of_return() -> None:
    count = 6
    locks = [threading.Lock() for _ in range(count)]
    carriers: list[LWP] = []
    order: list[int] = []
    release_order = [3, 0, 5, 1, 4, 2]

    async def blocks(number: int) -> None:
        carriers.append(here())
        locks[number].acquire()
        order.append(number)

    async def releases() -> None:
        with hybridexec.pinned():
            for number in release_order:
                locks[number].release()
                spin_until(lambda number=number: carriers[number].state is LwpState.RETURNING)  # type: ignore[misc]

    async def main() -> None:
        tasks = [asyncio.create_task(blocks(number)) for number in range(count)]
        await asyncio.gather(*tasks, asyncio.create_task(releases()))

    for lock in locks:
        lock.acquire()
    hybridexec.run(main())
    assert order == release_order


def test_rule3_a_returning_step_gets_its_turn_though_the_loop_is_never_idle() -> None:
    with pipe() as (reader, writer):
        returned = False

        async def blocks() -> None:
            nonlocal returned
            os.read(reader, 1)
            returned = True

        async def busy() -> None:
            while not returned:
                await asyncio.sleep(0)

        async def releases() -> None:
            os.write(writer, b"x")

        async def main() -> None:
            await asyncio.gather(blocks(), *(busy() for _ in range(50)), releases())

        hybridexec.run(main())
        assert returned


def test_rule3_a_returning_step_does_not_wait_for_a_long_batch() -> None:
    """It gets the loop between two steps, before the rest of what was ready."""
    with pipe() as (reader, writer):
        returned = False
        ran_before = 0
        batch = 300

        async def blocks() -> None:
            nonlocal returned
            os.read(reader, 1)
            returned = True

        def busy() -> None:
            nonlocal ran_before
            if not returned:
                ran_before += 1
                until = monotonic() + 0.003
                while monotonic() < until:
                    pass

        async def main() -> None:
            loop = asyncio.get_running_loop()
            task = asyncio.create_task(blocks())
            loop.call_soon(os.write, writer, b"x")
            for _ in range(batch):
                loop.call_soon(busy)
            await task

        hybridexec.run(main())
        assert ran_before < batch


def test_rule3_preempted_steps_get_their_turn() -> None:
    turns: collections.Counter[int] = collections.Counter()
    count = 3

    async def computes(number: int) -> None:
        # Each goes on only until every one has had a turn, which none has without preemption.
        while True:
            turns[number] += 1
            if len(turns) == count:
                break

    async def main() -> None:
        await asyncio.gather(*(computes(number) for number in range(count)))

    hybridexec.run(main(), preempt=0.005)
    assert set(turns) == set(range(count))


# ---------------------------------------------------------------- rule 4: home


async def block_the_home(release: Callable[[int], Any]) -> None:
    """Block the calling step on a pipe; a task that comes behind it calls ``release`` with the end to write to."""
    with pipe() as (reader, writer):

        async def releases() -> None:
            await release(writer)

        task = asyncio.create_task(releases())
        os.read(reader, 1)
        await task


async def write_to(writer: int) -> None:
    """Release who reads."""
    os.write(writer, b"x")


def test_rule4_the_loop_comes_home_when_it_is_about_to_idle() -> None:
    async def main() -> None:
        home = here()
        for _ in range(5):
            blockers = [asyncio.create_task(block_the_home(write_to)) for _ in range(4)]
            await asyncio.gather(*blockers)
            idles = 0
            while here() is not home:
                idles += 1
                assert idles < 20
                await asyncio.sleep(0.001)
            assert _thread.get_ident() == threading.main_thread().ident

    hybridexec.run(main())


def test_rule4_the_loop_comes_home_though_it_is_never_idle() -> None:
    """A step that returns at home is not the last to be there: the busy ones follow."""
    with pipe() as (reader, writer):
        came_home = False

        async def busy() -> None:
            nonlocal came_home
            os.write(writer, b"x")
            while _thread.get_ident() != threading.main_thread().ident:
                await asyncio.sleep(0)
            came_home = True

        async def main() -> None:
            task = asyncio.create_task(busy())
            os.read(reader, 1)
            # The step ends at home, and the next blocks it again: it is free for a moment only.
            await task

        hybridexec.run(main())
        assert came_home


def test_rule4_run_returns_on_the_thread_that_called_it() -> None:
    async def main() -> int:
        await block_the_home(write_to)
        return 42

    before = _thread.get_ident()
    assert hybridexec.run(main()) == 42
    assert _thread.get_ident() == before


def test_rule4_signal_handlers_can_be_set_from_a_spare_while_the_home_is_blocked() -> None:
    """The home does it as soon as it waits for the loop itself, which somebody else has to bring about."""
    with pipe() as (reader, writer):
        received: list[int] = []
        threads: list[int] = []

        def handler(number: int, frame: FrameType | None) -> None:
            received.append(number)

        async def blocks() -> None:
            os.read(reader, 1)

        async def sets_a_handler() -> Any:
            threads.append(_thread.get_ident())
            return signal.signal(signal.SIGUSR1, handler)

        async def releases() -> None:
            os.write(writer, b"x")

        async def main() -> None:
            _, before, _ = await asyncio.gather(blocks(), sets_a_handler(), releases())
            assert before == signal.SIG_DFL
            assert signal.getsignal(signal.SIGUSR1) is handler
            signal.raise_signal(signal.SIGUSR1)
            await asyncio.sleep(0)

        try:
            hybridexec.run(main())
        finally:
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        assert threads[0] != threading.main_thread().ident
        assert received == [signal.SIGUSR1]


def test_rule4_signal_handlers_can_be_set_from_a_spare_while_the_home_waits() -> None:
    with pipe() as (reader, writer):
        home: LWP
        threads: list[int] = []

        async def blocks() -> None:
            os.read(reader, 1)

        async def sets_a_handler() -> None:
            with hybridexec.pinned():
                os.write(writer, b"x")
                spin_until(lambda: home.state is LwpState.RETURNING)
            threads.append(_thread.get_ident())
            assert signal.signal(signal.SIGUSR1, signal.SIG_IGN) == signal.SIG_DFL
            with pytest.raises(ValueError, match="signal number out of range"):
                signal.signal(4711, signal.SIG_IGN)
            with pytest.raises(TypeError):
                signal.signal(signal.SIGUSR1, "not a handler")  # type: ignore[arg-type]

        async def main() -> None:
            nonlocal home
            home = here()
            await asyncio.gather(blocks(), sets_a_handler())

        try:
            hybridexec.run(main())
            assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
        finally:
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        assert threads[0] != threading.main_thread().ident


def test_rule4_add_signal_handler_works_from_a_spare() -> None:
    with pipe() as (reader, writer):
        threads: list[int] = []

        async def blocks() -> None:
            os.read(reader, 1)

        async def handles_a_signal() -> None:
            threads.append(_thread.get_ident())
            loop = asyncio.get_running_loop()
            caught = asyncio.Event()
            loop.add_signal_handler(signal.SIGUSR1, caught.set)
            os.kill(os.getpid(), signal.SIGUSR1)
            await caught.wait()
            assert loop.remove_signal_handler(signal.SIGUSR1)
            assert not loop.remove_signal_handler(signal.SIGUSR1)

        async def releases() -> None:
            os.write(writer, b"x")

        async def main() -> None:
            await asyncio.gather(blocks(), handles_a_signal(), releases())

        hybridexec.run(main())
        assert threads[0] != threading.main_thread().ident
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_rule4_a_thread_that_is_not_the_main_one_can_be_home() -> None:
    idents: list[int] = []

    async def main() -> None:
        home = here()
        await block_the_home(write_to)
        while here() is not home:
            await asyncio.sleep(0.001)
        idents.append(_thread.get_ident())

    thread = threading.Thread(target=lambda: hybridexec.run(main()), name="a home of its own")
    thread.start()
    thread.join()
    assert idents == [thread.ident]


# ---------------------------------------------------------------- rule 5: no surprise


def test_rule5_no_handoff_without_a_blocking_call() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()

    async def client(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(50):
            writer.write(b"%d\n" % number)
            assert await reader.readline() == b"%d\n" % number
            await asyncio.sleep(0)
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        idents = {_thread.get_ident()}
        lock = threading.Lock()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        await asyncio.gather(*(client(server.sockets[0].getsockname()[1]) for _ in range(10)))
        for _ in range(100):
            with lock:
                idents.add(_thread.get_ident())
            time.sleep(0)
            await asyncio.sleep(0)
        server.close()
        await server.wait_closed()
        stats = running_loop().stats()
        assert stats.handoffs == 0
        assert stats.upcalls[UpcallKind.BLOCKED] == 0
        assert stats.upcalls[UpcallKind.LWP_STARTED] == 0
        assert stats.lwps_alive == 1
        assert idents == {_thread.get_ident()}

    hybridexec.run(main())


def test_rule5_python_code_is_not_interrupted() -> None:
    ran_meanwhile = 0
    computing = False

    def other() -> None:
        nonlocal ran_meanwhile
        ran_meanwhile += computing

    async def computes() -> int:
        nonlocal computing
        computing = True
        until = monotonic() + 0.15
        count = 0
        while monotonic() < until:
            count += sum(range(100))
        computing = False
        return count

    async def main() -> None:
        loop = running_loop()
        task = asyncio.create_task(computes())
        for number in range(20):
            loop.call_soon(other)
            loop.call_later(number * 0.005, other)
        assert await task > 0
        stats = loop.stats()
        assert stats.handoffs == 0
        assert stats.upcalls[UpcallKind.BLOCKED] == 0
        assert stats.upcalls[UpcallKind.PREEMPTED] == 0

    hybridexec.run(main())
    assert ran_meanwhile == 0


def test_rule5_a_lone_step_is_not_preempted() -> None:
    async def main() -> None:
        until = monotonic() + 0.1
        while monotonic() < until:
            pass
        stats = running_loop().stats()
        assert stats.handoffs == 0

    hybridexec.run(main(), preempt=0.01)


# ---------------------------------------------------------------- rule 6: affinity


def test_rule6_bound_tasks_stay_on_their_lwp_while_others_move() -> None:
    """While its LWP is blocked a bound task waits, as on asyncio; everybody else goes on."""
    with pipe() as (reader, writer):
        idents: list[int] = []
        while_blocked: list[str] = []
        blocked = False

        async def bound_task(ready: asyncio.Event) -> None:
            with hybridexec.bound():
                ready.set()
                for _ in range(50):
                    idents.append(_thread.get_ident())
                    if blocked:
                        while_blocked.append("bound")
                    await asyncio.sleep(0)

        async def blocks(ready: asyncio.Event) -> None:
            nonlocal blocked
            await ready.wait()
            blocked = True
            os.read(reader, 1)
            blocked = False

        async def unbound(ready: asyncio.Event) -> None:
            await ready.wait()
            while not blocked:
                await asyncio.sleep(0)
            for _ in range(100):
                while_blocked.append("unbound")
                await asyncio.sleep(0)
            os.write(writer, b"x")
            # ``blocked`` is reset when the step goes on.
            blocked_over.set()

        async def main() -> None:
            ready = asyncio.Event()
            await asyncio.gather(bound_task(ready), blocks(ready), unbound(ready))

        blocked_over = threading.Event()
        hybridexec.run(main())
        assert len(idents) == 50
        assert set(idents) == {_thread.get_ident()}
        assert while_blocked.count("unbound") == 100
        assert "bound" not in while_blocked


def test_rule6_a_task_can_be_bound_to_a_spare() -> None:
    with pipe() as (reader, writer):
        idents: list[int] = []

        async def blocks() -> None:
            os.read(reader, 1)

        async def bound_task() -> None:
            with hybridexec.bound():
                idents.append(_thread.get_ident())
                os.write(writer, b"x")
                for _ in range(20):
                    await asyncio.sleep(0.001)
                    time.sleep(0.001)
                    idents.append(_thread.get_ident())

        async def main() -> None:
            await asyncio.gather(blocks(), bound_task())

        hybridexec.run(main())
        assert len(idents) == 21
        assert len(set(idents)) == 1
        assert idents[0] != _thread.get_ident()


def test_rule6_callbacks_that_are_methods_of_what_has_no_hash_run_beside_a_bound_task() -> None:
    """``task.add_done_callback(background.discard)``, as asyncio's documentation advises."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        order: list[str] = []
        background: set[asyncio.Task[None]] = set()

        async def nothing() -> None:
            pass

        with hybridexec.bound():
            task = asyncio.create_task(nothing())
            background.add(task)
            task.add_done_callback(background.discard)
            loop.call_soon(order.append, "called")
            while background or not order:
                await asyncio.sleep(0)

    hybridexec.run(main())


def test_rule7_what_asyncio_raises_out_of_run_ends_the_run_also_on_a_spare() -> None:
    class Unprintable:
        def __call__(self) -> None:
            raise LookupError

        def __repr__(self) -> str:
            raise ZeroDivisionError("nobody can print it")

    async def main() -> None:
        with pipe() as (reader, writer):
            loop = asyncio.get_running_loop()

            def fails() -> None:
                assert _thread.get_ident() != threading.main_thread().ident
                loop.call_soon(Unprintable())
                loop.call_soon(os.write, writer, b"x")

            loop.call_soon(fails)
            os.read(reader, 1)
            await asyncio.Event().wait()

    with pytest.raises(ZeroDivisionError, match="nobody can print it"):
        hybridexec.run(main())


def test_rule6_two_tasks_bound_to_one_lwp_keep_their_order() -> None:
    order: list[int] = []

    async def bound_task(number: int) -> None:
        with hybridexec.bound():
            for _ in range(10):
                order.append(number)
                await asyncio.sleep(0)

    async def blocks() -> None:
        for _ in range(5):
            time.sleep(0.001)
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(bound_task(0), bound_task(1), blocks())

    hybridexec.run(main())
    assert order == [0, 1] * 10


async def greenlet_spawn(function: Callable[[Callable[[Any], Any]], Any]) -> Any:
    """Run a function in a greenlet; it may await by calling what it gets.  As SQLAlchemy's asyncio extension does."""
    parent = greenlet.getcurrent()
    child = greenlet.greenlet(function)
    result = child.switch(lambda awaitable: parent.switch(awaitable))
    while not child.dead:
        result = child.switch(await result)
    return result


def test_rule6_a_live_greenlet_binds() -> None:
    def inside(await_: Callable[[Any], Any]) -> int:
        idents = {_thread.get_ident()}
        for _ in range(10):
            await_(asyncio.sleep(0.001))
            time.sleep(0.001)
            idents.add(_thread.get_ident())
        return len(idents)

    async def blocks() -> None:
        for _ in range(10):
            time.sleep(0.002)
            await asyncio.sleep(0)

    async def main() -> tuple[list[int], int]:
        blockers = [asyncio.create_task(blocks()) for _ in range(5)]
        counts = await asyncio.gather(*(asyncio.create_task(greenlet_spawn(inside)) for _ in range(5)))
        await asyncio.gather(*blockers)
        return counts, running_loop().stats().handoffs

    counts, handoffs = hybridexec.run(main())
    assert counts == [1] * 5
    assert handoffs > 0


def test_rule6_a_dead_greenlet_lets_go() -> None:
    """Afterwards the task moves again: it gets on while the thread that it was bound to is blocked."""
    with pipe() as (reader, writer):

        async def task(free: asyncio.Event) -> int:
            def inside(await_: Callable[[Any], Any]) -> None:
                await_(asyncio.sleep(0.001))

            await greenlet_spawn(inside)
            await asyncio.sleep(0)
            free.set()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            os.write(writer, b"x")  # only from another LWP than the blocked one
            return _thread.get_ident()

        async def blocks(free: asyncio.Event) -> int:
            await free.wait()
            os.read(reader, 1)
            return _thread.get_ident()

        async def main() -> tuple[int, int]:
            free = asyncio.Event()
            return await asyncio.gather(task(free), blocks(free))

        moved, blocked = hybridexec.run(main())
        assert moved != blocked


# ---------------------------------------------------------------- rule 7: nothing lost


def test_rule7_each_callback_runs_once() -> None:
    runs: collections.Counter[int] = collections.Counter()
    numbers = iter(range(100_000))
    scheduled: list[int] = []

    def callback(number: int) -> None:
        runs[number] += 1
        if number % 7 == 0:
            time.sleep(0.001)

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def another() -> int:
            number = next(numbers)
            scheduled.append(number)
            return number

        def outside() -> None:
            for _ in range(100):
                loop.call_soon_threadsafe(callback, another())

        thread = threading.Thread(target=outside)
        thread.start()
        for _ in range(100):
            loop.call_soon(callback, another())
            loop.call_later(random.random() * 0.02, callback, another())
        cancelled = [loop.call_soon(callback, -1) for _ in range(20)]
        cancelled += [loop.call_later(0.001, callback, -2) for _ in range(20)]
        for handle in cancelled:
            handle.cancel()
        while len(runs) < 300:
            await asyncio.sleep(0.001)
        thread.join()

    hybridexec.run(main())
    assert sorted(runs) == sorted(scheduled) == list(range(300))
    assert set(runs.values()) == {1}


def test_rule7_what_a_blocked_step_shares_its_context_with_is_run_all_the_same() -> None:
    """A context that is entered cannot be entered again: who shares it waits until the step is over."""
    order: list[str] = []
    context = contextvars.copy_context()
    with pipe() as (reader, writer):

        def blocks() -> None:
            os.read(reader, 1)
            order.append("blocked step")

        async def main() -> None:
            loop = asyncio.get_running_loop()
            done = asyncio.Event()
            loop.call_soon(blocks, context=context)
            for number in range(5):
                loop.call_soon(order.append, f"shares {number}", context=context)
            loop.call_soon(order.append, "does not share")
            loop.call_soon(os.write, writer, b"x")
            loop.call_soon(done.set, context=context)
            await done.wait()

        hybridexec.run(main())
        assert order[0] == "does not share"
        assert order[1:] == ["blocked step", *(f"shares {number}" for number in range(5))]


def test_rule7_a_result_and_an_exception_arrive_from_a_spare() -> None:
    with pipe() as (reader, writer):

        async def blocks() -> None:
            os.read(reader, 1)

        async def raises() -> None:
            assert _thread.get_ident() != threading.main_thread().ident
            raise LookupError("from a spare")

        async def returns() -> int:
            assert _thread.get_ident() != threading.main_thread().ident
            os.write(writer, b"x")
            return 42

        async def main() -> tuple[Any, ...]:
            return await asyncio.gather(blocks(), raises(), returns(), return_exceptions=True)

        _, error, value = hybridexec.run(main())
        assert isinstance(error, LookupError)
        assert str(error) == "from a spare"
        assert value == 42


def test_rule7_exceptions_of_callbacks_reach_the_exception_handler() -> None:
    with pipe() as (reader, writer):
        caught: list[BaseException] = []

        def raises_at_once() -> None:
            raise LookupError("at once")

        def raises_after_a_block() -> None:
            os.read(reader, 1)
            raise LookupError("after a block")

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda loop, context: caught.append(context["exception"]))
            loop.call_soon(raises_after_a_block)
            loop.call_soon(raises_at_once)
            loop.call_soon(os.write, writer, b"x")
            while len(caught) < 2:
                await asyncio.sleep(0)

        hybridexec.run(main())
        assert [str(exc) for exc in caught] == ["at once", "after a block"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_rule7_what_ends_the_loop_on_a_spare_reaches_the_caller(kind: type[BaseException]) -> None:
    with pipe() as (reader, writer):
        finished: list[str] = []

        async def blocks() -> None:
            try:
                os.read(reader, 1)
                await asyncio.sleep(60)
            finally:
                finished.append("blocks")

        async def ends_it() -> None:
            assert _thread.get_ident() != threading.main_thread().ident
            os.write(writer, b"x")
            raise kind("from a spare")

        async def main() -> None:
            await asyncio.gather(blocks(), ends_it())

        with pytest.raises(kind, match="from a spare"):
            hybridexec.run(main())
        assert finished == ["blocks"]
        assert not lwps()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_rule7_what_ends_the_loop_after_a_block_reaches_the_caller(kind: type[BaseException]) -> None:
    async def main() -> None:
        await block_the_home(write_to)
        time.sleep(0.002)
        raise kind("after a block")

    with pytest.raises(kind, match="after a block"):
        hybridexec.run(main())
    assert not lwps()


def test_rule7_no_lwp_is_left_when_main_raises_while_others_are_blocked() -> None:
    with pipe() as (reader, writer):
        went_on: list[bool] = []

        async def blocks() -> None:
            os.read(reader, 1)
            went_on.append(True)

        async def main() -> None:
            tasks = [asyncio.create_task(blocks()) for _ in range(3)]
            await asyncio.sleep(0)
            # Only the cancelling of what is left over, which waits for the tasks, lets this go on.
            asyncio.get_running_loop().call_later(0.01, os.write, writer, b"xxx")
            assert tasks
            raise LookupError("main")

        with pytest.raises(LookupError, match="main"):
            hybridexec.run(main())
        assert went_on == [True] * 3
        assert not lwps()


def test_rule7_close_waits_for_blocked_steps() -> None:
    with pipe() as (home_reader, home_writer), pipe() as (reader, writer):
        loop = hybridexec.new_event_loop()
        order: list[str] = []

        def blocks() -> None:
            os.write(home_writer, b"x")  # only from another LWP: the home waits for it
            os.read(reader, 1)
            order.append("went on")

        def stops() -> None:
            order.append("stops")
            loop.stop()

        async def main() -> None:
            await asyncio.sleep(0)

        loop.call_soon(os.read, home_reader, 1)
        loop.call_soon(blocks)
        loop.call_soon(stops)
        loop.run_forever()
        assert order == ["stops"]
        timer = threading.Timer(0.02, os.write, (writer, b"x"))
        timer.start()
        loop.run_until_complete(main())
        loop.close()
        timer.join()
        assert order == ["stops", "went on"]
        assert loop.is_closed()
        assert not lwps()


def test_rule7_a_cancelled_blocked_task_gets_its_cancellation_at_its_next_await() -> None:
    with pipe() as (reader, writer):
        order: list[str] = []

        async def blocks() -> None:
            try:
                os.read(reader, 1)
                order.append("goes on")
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                order.append("is cancelled")
                raise

        async def main() -> None:
            task = asyncio.create_task(blocks())
            await asyncio.sleep(0)
            assert task.cancel()
            order.append("cancels")
            os.write(writer, b"x")
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()

        hybridexec.run(main())
        assert order == ["cancels", "goes on", "is cancelled"]


def test_rule7_a_timeout_fires_while_its_task_is_blocked() -> None:
    with pipe() as (reader, writer):
        order: list[str] = []

        async def blocks() -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.005):
                    os.read(reader, 1)
                    order.append("goes on")
                    await asyncio.sleep(60)
            order.append("times out")

        async def releases() -> None:
            await asyncio.sleep(0.02)
            os.write(writer, b"x")

        async def main() -> None:
            await asyncio.gather(blocks(), releases())

        hybridexec.run(main())
        assert order == ["goes on", "times out"]


def test_rule7_context_variables_and_the_current_task_survive_a_block() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")

    async def task(number: int) -> None:
        variable.set(number)
        me = asyncio.current_task()
        for _ in range(5):
            time.sleep(0.001)
            assert variable.get() == number
            assert asyncio.current_task() is me
            assert asyncio.get_running_loop() is not None
            LIBC.usleep(1000)
            assert asyncio.current_task() is me
            await asyncio.sleep(0)
            assert variable.get() == number
            assert asyncio.current_task() is me

    async def main() -> None:
        await asyncio.gather(*(asyncio.create_task(task(number)) for number in range(10)))

    hybridexec.run(main())


def test_rule7_exhaustion_is_told_and_everything_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """Every LWP is blocked on what a thread outside of the loop releases when it is told so."""
    with pipe() as (reader, writer):
        told: list[hybridexec.Upcall] = []

        class Releases(hybridexec.Instrument):
            def exhausted(self, upcall: hybridexec.Upcall) -> None:
                told.append(upcall)
                os.write(writer, b"xxx")

        async def blocks() -> None:
            os.read(reader, 1)

        async def main() -> None:
            await asyncio.gather(*(asyncio.create_task(blocks(), name=f"blocker-{n}") for n in range(3)))

        hybridexec.run(main(), max_lwps=3, instruments=[Releases()])
        assert [upcall.kind for upcall in told] == [UpcallKind.EXHAUSTED]
        warnings = [record.getMessage() for record in caplog.records if "max_lwps" in record.getMessage()]
        assert len(warnings) == 1
        assert all(f"blocker-{n}" in warnings[0] for n in range(3))
        assert warnings[0].count("test_contract.py") == 3


def test_rule7_exhaustion_by_locks_names_the_locks(caplog: pytest.LogCaptureFixture) -> None:
    locks = [threading.Lock(), threading.Lock()]

    class Releases(hybridexec.Instrument):
        def exhausted(self, upcall: hybridexec.Upcall) -> None:
            for lock in locks:
                lock.release()

    async def blocks(lock: threading.Lock) -> None:
        lock.acquire()

    async def main() -> None:
        await asyncio.gather(*map(blocks, locks))

    for lock in locks:
        lock.acquire()
    hybridexec.run(main(), max_lwps=2, instruments=[Releases()])
    warnings = [record.getMessage() for record in caplog.records if "max_lwps" in record.getMessage()]
    assert len(warnings) == 1
    assert "waits for a lock" in warnings[0]
    assert warnings[0].count("<lock> 0x") == 2
    assert "test_contract.py" in warnings[0]


def test_rule7_loops_follow_each_other_on_one_thread() -> None:
    for _ in range(10):
        with pipe() as (reader, writer):
            scene = play(functools.partial(os.read, reader, 1), functools.partial(os.write, writer, b"x"))
        assert scene.moved
        assert not lwps()


def test_rule7_two_loops_run_side_by_side() -> None:
    recorders = [Recorder(), Recorder()]

    async def main() -> None:
        for _ in range(5):
            await block_the_home(write_to)

    def home(recorder: Recorder) -> None:
        hybridexec.run(main(), instruments=[recorder])

    threads = [threading.Thread(target=home, args=(recorder,)) for recorder in recorders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for recorder in recorders:
        assert len({id(upcall.loop) for upcall in recorder.of(UpcallKind.BLOCKED)}) == 1
        assert len(recorder.of(UpcallKind.BLOCKED)) >= 5
    assert not lwps()
