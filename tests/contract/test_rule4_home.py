"""Rule 4: home.

That the loop has moved is proved by causality: a step blocks on what only another task of the same loop can release.
"""

from __future__ import annotations

import _thread
import asyncio
import os
import signal
import threading
from types import FrameType
from typing import Any

import pytest
from helpers import (
    here,
    pipe,
)
from steps import block_the_home, spin_until, write_to

import hybridexec
from hybridexec.protocol.lwp import LWP, LwpState

pytestmark = [pytest.mark.differs_by_engine, pytest.mark.differs_by_version]


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
