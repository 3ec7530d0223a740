"""Handlers that block where the home has no step: each waits for what only a task of the loop can release."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from helpers import AUTO, LIBC, pipe, running_loop

import hybridexec
from hybridexec import HybridLoop, LwpState, Upcall

from .shared import at_home, home_of, in_state, interrupt, locked, rounds


def handles(block: Callable[[], object], number: int = signal.SIGUSR1) -> None:
    """Set the handler of a signal."""
    signal.signal(number, lambda number, frame: block())


class Block:
    """Blocks until it is released."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.lock = locked()
        self.order: list[str] = []

    def __call__(self) -> None:
        self.order.append("blocks")
        self.began.set()
        self.lock.acquire()
        self.order.append("returns")

    def release(self) -> None:
        self.order.append("releases")
        self.lock.release()


def strike_in_the_poll(loop: HybridLoop, block: Block, then: Callable[[], object]) -> None:
    """On another thread.  Nothing else happens in the loop: the signal does not come in a step."""
    in_state(home_of(loop), LwpState.POLLING)
    interrupt(signal.SIGUSR1)
    block.began.wait()
    loop.call_soon_threadsafe(then)


async def struck_in_the_poll(block: Block) -> None:
    """Wait until the handler has blocked, in the poll."""
    loop, began = asyncio.get_running_loop(), asyncio.Event()
    threading.Thread(target=strike_in_the_poll, args=(loop, block, began.set)).start()
    await began.wait()


@rounds(20)
def home_polls(beside_a_spare: bool) -> None:
    """A timer releases the handler: somebody else has to poll for it."""
    block = Block()
    handles(block)

    async def main() -> None:
        if beside_a_spare:
            time.sleep(0.001)
            while not at_home():
                await asyncio.sleep(0.001)
        await struck_in_the_poll(block)
        assert not at_home()
        block.release()
        while len(block.order) < 3:
            await asyncio.sleep(0.001)
        assert block.order == ["blocks", "releases", "returns"], block.order
        while not at_home():  # it does its duty again
            await asyncio.sleep(0.001)

    hybridexec.run(main(), engine=AUTO)


@rounds(20)
def home_is_parked() -> None:
    """Another LWP carries the loop, and wakes the home, as it has nothing to run."""
    block = Block()
    handles(block)

    async def main() -> None:
        loop = running_loop()
        home = home_of(loop)
        away = loop.create_future()

        async def carries() -> None:
            while at_home():
                await asyncio.sleep(0)
            with hybridexec.pinned():
                released.release()
                loop._write_to_self()
                in_state(home, LwpState.PARKED, LwpState.RETURNING, LwpState.POLLING)
                interrupt(signal.SIGUSR1)
                block.began.wait()
            loop.call_later(0.001, block.release)
            away.set_result(None)

        released = threading.Lock()
        released.acquire()
        task = asyncio.create_task(carries())
        await asyncio.sleep(0)
        released.acquire()
        await away
        while len(block.order) < 3:
            await asyncio.sleep(0.001)
        await task
        assert block.order == ["blocks", "releases", "returns"], block.order

    hybridexec.run(main())


@rounds(20)
def home_waits_with_a_step() -> None:
    """The call of its step has returned, and it is the next to get the loop."""
    block = Block()
    handles(block)
    order: list[str] = []

    async def main() -> None:
        home = home_of(asyncio.get_running_loop())
        released = threading.Lock()
        released.acquire()

        async def carries() -> None:
            with hybridexec.pinned():
                released.release()
                in_state(home, LwpState.RETURNING)
                interrupt(signal.SIGUSR1)
                block.began.wait()
            for _ in range(20):
                await asyncio.sleep(0.001)
            order.append("others")
            block.release()

        assert at_home()
        task = asyncio.create_task(carries())
        released.acquire()
        assert at_home()
        order.append("home")
        await task
        assert order == ["others", "home"], order
        assert block.order == ["blocks", "releases", "returns"], block.order

    hybridexec.run(main())


def acquire(lock: threading.Lock, reader: int) -> None:
    lock.acquire()


def read(lock: threading.Lock, reader: int) -> None:
    LIBC.read(reader, b" ", 1)


WAITS: dict[str, Callable[[threading.Lock, int], None]] = {"declared": acquire, "discovered": read}
"""What the step of the home blocks in."""


@rounds(10)
def called_before_its_step_resumes(how: str) -> None:
    """The home gets the loop back in a callback of the detector's, where the interpreter has no events for others.

    The handler blocks there, on what only the loop can release, and does not continue beside whoever has released it.
    """
    block = Block()
    wait = WAITS[how]

    def handler(number: int, frame: FrameType | None) -> None:
        carrying = running_loop()._carrying
        assert carrying.holder is carrying.home
        block()
        assert carrying.holder is carrying.home
        block.order.append("has the loop")

    async def main(reader: int, writer: int) -> None:
        signal.signal(signal.SIGUSR1, handler)
        loop = running_loop()
        home = home_of(loop)
        released = threading.Lock()
        released.acquire()

        async def carries() -> None:
            with hybridexec.pinned():
                released.release()
                os.write(writer, b"x")
                in_state(home, LwpState.RETURNING)
                interrupt(signal.SIGUSR1)
                while not loop._shield.noted:
                    time.sleep(0)
            while not block.began.is_set():
                await asyncio.sleep(0)
            with hybridexec.pinned():
                block.release()
                for _ in range(20):
                    time.sleep(0)
                block.order.append("still has it")

        assert at_home()
        task = asyncio.create_task(carries())
        wait(released, reader)
        assert at_home()
        await task
        assert block.order == ["blocks", "releases", "still has it", "returns", "has the loop"], block.order

    with pipe() as ends:
        hybridexec.run(main(*ends))


@rounds(20)
def loop_stops_meanwhile() -> None:
    """It returns from run_forever when the handler has returned."""
    block = Block()
    handles(block)
    loop = hybridexec.new_event_loop(engine=AUTO)

    def stop() -> None:
        loop.stop()
        loop.call_later(0.001, block.release)

    strikes = threading.Thread(target=strike_in_the_poll, args=(loop, block, stop))
    loop.call_soon(strikes.start)
    loop.run_forever()
    assert block.order == ["blocks", "releases", "returns"], block.order
    loop.close()


@rounds(20)
def raises_out_of_the_run() -> None:
    """The handler raises when it has been released."""
    block = Block()

    def handler() -> None:
        block()
        raise LookupError("by the handler")

    handles(handler)

    async def main() -> None:
        await struck_in_the_poll(block)
        block.release()
        await asyncio.Event().wait()

    try:
        hybridexec.run(main(), engine=AUTO)
    except LookupError:
        return
    raise SystemExit("nothing was raised")


@rounds(20)
def interrupts_another() -> None:
    """The first handler returns when the second one has returned."""
    first, second = Block(), Block()
    handles(first)
    handles(second, signal.SIGUSR2)

    async def main() -> None:
        await struck_in_the_poll(first)
        interrupt(signal.SIGUSR2)
        while not second.began.is_set():
            await asyncio.sleep(0.001)
        first.release()
        await asyncio.sleep(0.001)
        assert "returns" not in first.order
        second.release()
        while len(first.order) < 3:
            await asyncio.sleep(0.001)

    hybridexec.run(main(), engine=AUTO)


@rounds(10)
def others_block_meanwhile() -> None:
    """As many as there may be LWPs beside the home."""
    block = Block()
    handles(block)

    async def blocks(lock: threading.Lock, other: threading.Lock) -> None:
        lock.acquire()
        other.release()

    async def main() -> None:
        await struck_in_the_poll(block)
        locks = [threading.Lock() for _ in range(3)]
        for lock in locks:
            lock.acquire()
        tasks = [
            asyncio.create_task(blocks(lock, other))
            for lock, other in zip(locks, (*locks[1:], block.lock), strict=True)
        ]
        await asyncio.sleep(0.001)
        locks[0].release()
        for task in tasks:
            await task

    hybridexec.run(main(), engine=AUTO, max_lwps=5)


class Tells(hybridexec.Instrument):
    """Prints the upcalls of the handler's block, and releases it where nobody else can."""

    def __init__(self, block: Block, releases: bool) -> None:
        self._block = block
        self._releases = releases

    def blocked(self, upcall: Upcall) -> None:
        assert upcall.detection is not None
        self._tells(upcall, upcall.detection.value, upcall.task)
        if self._releases:
            self._block.lock.release()

    def unblocked(self, upcall: Upcall) -> None:
        assert upcall.duration is not None
        self._tells(upcall, upcall.duration > 0)

    def _tells(self, upcall: Upcall, *what: object) -> None:
        assert upcall.site is not None
        if upcall.site.function.endswith("__call__"):
            print(upcall.kind.value, *what)


def told_of(mode: Any) -> None:
    """With its site, like a step of no task; and where nothing is to be done about blocks, the loop stays."""
    block = Block()
    handles(block)

    async def main() -> None:
        loop = running_loop()
        await struck_in_the_poll(block)
        if mode == "handoff":
            block.release()
        while "returns" not in block.order:
            await asyncio.sleep(0.001)
        assert (loop.stats().handoffs > 0) is (mode == "handoff")

    try:
        hybridexec.run(main(), engine=AUTO, mode=mode, instruments=[Tells(block, mode != "handoff")])
    except hybridexec.BlockingCallError:
        assert mode == "raise"
        print("raised")


@rounds(10)
def about_to_return_to_a_step() -> None:
    """The first handler's call has returned, and waits for the loop, as a step does; then another one comes."""
    first, second = Block(), Block()
    handles(first)
    handles(second, signal.SIGUSR2)

    async def main() -> None:
        home = home_of(asyncio.get_running_loop())

        async def carries() -> None:
            with hybridexec.pinned():
                first.release()
                in_state(home, LwpState.RETURNING)
                interrupt(signal.SIGUSR2)
                second.began.wait()
                in_state(home, LwpState.BLOCKED)
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert "returns" not in first.order
            second.release()

        task = asyncio.create_task(carries())
        signal.raise_signal(signal.SIGUSR1)
        assert first.order[-1] == second.order[-1] == "returns"
        await task

    hybridexec.run(main(), engine=AUTO)


@rounds(10)
def about_to_poll_again() -> None:
    """The first handler has blocked in the poll; it has returned, and the home waits for the loop, if it had it there.

    Then another one comes.
    """
    first, second = Block(), Block()
    handles(first)
    handles(second, signal.SIGUSR2)

    async def main() -> None:
        home = home_of(asyncio.get_running_loop())
        await struck_in_the_poll(first)
        with hybridexec.pinned():
            first.release()
            in_state(home, LwpState.RETURNING, LwpState.POLLING)
            interrupt(signal.SIGUSR2)
            second.began.wait()
        for _ in range(20):
            await asyncio.sleep(0.001)
        second.release()
        while not at_home():
            await asyncio.sleep(0.001)
        assert first.order[-1] == second.order[-1] == "returns"

    hybridexec.run(main(), engine=AUTO)


def strikes(thing: object, name: str, when: Callable[[], bool]) -> None:
    """The signal comes in the middle of one of the loop's own methods, on the home, once."""
    method = getattr(thing, name)

    def struck(*args: object) -> Any:
        result = method(*args)
        if at_home() and when() and getattr(thing, name) is struck:
            setattr(thing, name, method)
            interrupt(signal.SIGUSR1)
        return result

    setattr(thing, name, struck)


@rounds(10)
def poll_has_found_something() -> None:
    """It is out of date when the handler has returned: the others see to it meanwhile."""
    block = Block()
    handles(block)
    read: list[object] = []

    async def main() -> None:
        loop = running_loop()
        loop.set_exception_handler(lambda loop, context: read.append(context))

        found = asyncio.Event()

        def ready() -> None:
            read.append(os.read(reader, 1))
            block.release()
            found.set()

        with pipe() as (reader, writer):
            os.set_blocking(reader, False)
            loop.add_reader(reader, ready)
            home = home_of(loop)

            def write() -> None:
                in_state(home, LwpState.POLLING)
                os.write(writer, b"x")

            await asyncio.sleep(0)
            strikes(loop._poll, "wait", lambda: home.state is LwpState.POLLING)
            threading.Thread(target=write).start()
            await found.wait()
            while not at_home():
                await asyncio.sleep(0.001)
            loop.remove_reader(reader)
        assert read == [b"x"], read

    hybridexec.run(main(), engine=AUTO)
