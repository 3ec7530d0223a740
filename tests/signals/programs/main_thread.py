"""What only the main thread may do is done for any LWP: handlers, alarms, and the wait for a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

from helpers import pipe

import hybridexec

from .shared import Block, Held, acquire, acquire_in_a_region, at_home, interrupt, locked, read, rounds


@rounds(30)
def for_a_spare() -> None:
    """A step on a spare sets a handler and the wakeup descriptor, and gets the errors."""
    came: list[int | None] = []

    async def spare() -> None:
        assert not at_home()
        releases = asyncio.create_task(release())
        before = signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))
        assert before in (signal.SIG_DFL, signal.Handlers.SIG_DFL)
        old = signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False)
        os.kill(os.getpid(), signal.SIGUSR1)
        while not came:
            await asyncio.sleep(0)
        assert theirs.recv(10)[-1:] == bytes([signal.SIGUSR1])
        assert signal.set_wakeup_fd(old) == ours.fileno()
        assert callable(signal.signal(signal.SIGUSR1, signal.SIG_DFL))
        try:
            signal.signal(signal.SIGKILL, signal.SIG_DFL)
        except OSError as exc:
            came.append(exc.errno)
        await releases

    async def release() -> None:
        os.write(writer, b"x")

    async def main() -> None:
        task = asyncio.create_task(spare())
        os.read(reader, 1)
        await task
        assert came == [signal.SIGUSR1, 22], came

    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with pipe() as (reader, writer), ours, theirs:
        hybridexec.run(main())


BLOCKS: dict[str, Block] = {
    "lock.acquire()": acquire,
    "os.read(reader, 1)": read,
    "explicit(lock)": acquire_in_a_region,
}
"""What blocks the home."""


@rounds(5)
def in_the_middle_of_a_block(how: str) -> None:
    """What blocks the home is released by the very step that needs the home."""
    block = BLOCKS[how]
    came: list[object] = []

    async def home(held: Held) -> None:
        assert at_home()
        block(held)

    async def spare(held: Held) -> None:
        assert not at_home()
        before = signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, came.append, "loop's")
        interrupt(signal.SIGUSR1)
        interrupt(signal.SIGUSR2)
        while len(came) < 2:
            await asyncio.sleep(0)
        assert not at_home()
        signal.signal(signal.SIGUSR1, before)
        asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR2)
        held.lock.release()
        os.write(held.writer, b"x")

    async def main(held: Held) -> None:
        await asyncio.gather(home(held), spare(held))
        assert set(came) == {signal.SIGUSR1, "loop's"}, came

    with pipe() as ends:
        hybridexec.run(main(Held(*ends)))


class TimesUp(Exception):
    """What the alarm's handler raises."""


def computes(lock: threading.Lock) -> None:
    """Calls nothing."""
    while True:
        pass


def waits_longer(lock: threading.Lock) -> None:
    lock.acquire(timeout=1.2)


def works(lock: threading.Lock) -> None:
    while True:
        sum(range(100))


def sets_an_alarm() -> None:
    signal.alarm(1)


def sets_a_timer() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.01)


BOUNDED: dict[str, Callable[[threading.Lock], None]] = {
    "while True: pass": computes,
    "lock.acquire(timeout=1.2)": waits_longer,
    "work()": works,
}
"""What a step does that has set an alarm."""

ALARMS: dict[str, Callable[[], None]] = {
    "signal.alarm(1)": sets_an_alarm,
    "signal.setitimer(signal.ITIMER_REAL, 0.01)": sets_a_timer,
}


def alarm_is_for_its_step(alarm: str, bounded: str) -> None:
    """What its handler raises is not for the step that the main thread is blocked in."""
    set_alarm, outlast = ALARMS[alarm], BOUNDED[bounded]

    def handler(number: int, frame: FrameType | None) -> None:
        raise TimesUp

    signal.signal(signal.SIGALRM, handler)

    async def main() -> None:
        with pipe() as (reader, writer):
            lock = locked()

            async def home() -> str:
                assert at_home()
                os.read(reader, 1)
                return "undisturbed"

            async def sets() -> str | None:
                assert not at_home()
                try:
                    set_alarm()
                    outlast(lock)
                except TimesUp:
                    assert not at_home()
                    return "timed out"
                finally:
                    os.write(writer, b"x")
                return None

            assert list(await asyncio.gather(home(), sets())) == ["undisturbed", "timed out"]

    hybridexec.run(main())


@rounds(20)
def step_waits_for_a_signal(where: str) -> None:
    """Another task sends it."""
    lock = locked()
    came: list[str] = []

    async def blocks() -> None:
        lock.acquire()

    async def waits() -> None:
        assert at_home() is (where == "home")
        signal.pause()
        came.append("resumes")

    async def sends() -> None:
        came.append("sends")
        os.kill(os.getpid(), signal.SIGUSR1)

    async def main() -> None:
        signal.signal(signal.SIGUSR1, lambda number, frame: came.append("handler"))
        tasks = [] if where == "home" else [asyncio.create_task(blocks())]
        tasks += asyncio.create_task(waits()), asyncio.create_task(sends())
        await tasks[-2]
        assert came == ["sends", "handler", "resumes"], came
        lock.release()
        await asyncio.wait(tasks)

    hybridexec.run(main())


def handler_ends_the_wait() -> None:
    """It raises."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise LookupError

    async def waits() -> str | None:
        try:
            signal.pause()
        except LookupError:
            return "raised"
        return None

    async def main() -> None:
        task = asyncio.create_task(waits())
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGUSR1)
        assert await task == "raised"

    signal.signal(signal.SIGUSR1, handler)
    hybridexec.run(main())


def thread_that_is_no_lwp() -> None:
    """It is refused as ever."""

    def sets() -> str | None:
        try:
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        except ValueError:
            return "refused"
        return None

    async def main() -> str | None:
        return await asyncio.to_thread(sets)

    assert hybridexec.run(main()) == "refused"
