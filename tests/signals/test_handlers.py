"""Signal handlers of ``signal.signal`` are the loop's Python code: nothing else of the loop runs while one does.

A handler makes others ready, lets them have the processor, and looks whether any has run: on asyncio none ever does.
"""

from __future__ import annotations

import pytest
from test_signals import play

pytestmark = [pytest.mark.differs_by_engine, pytest.mark.differs_by_version]

SETTING = """
    order = []

    def yields():
        # Whoever could run would: the interpreter is free several times, and the pipe tells pollers so.
        for _ in range(20):
            time.sleep(0)

    class Handler:
        # Sets an event, as a worker's does that shall stop, for many waiters.
        def __init__(self, loop, waiters):
            self.event = asyncio.Event()
            self.woken = 0
            self.inside = False
            self.calls = self.beside = 0
            self.called = threading.Event()
            self.home = home_of(loop)
            self.tasks = [asyncio.create_task(self.waits()) for _ in range(waiters)]
            signal.signal(signal.SIGUSR1, self)

        async def waits(self):
            await self.event.wait()
            self.looks()
            self.woken += 1

        def looks(self):
            self.beside += self.inside

        def __call__(self, number, frame):
            assert at_home()
            carrying = asyncio.get_running_loop()._carrying
            self.inside = True
            assert carrying.holder is self.home and carrying.holder_ident == _thread.get_ident()
            with hybridexec.pinned():  # what yields is no switch point
                asyncio.get_running_loop().call_soon(self.looks)
                yields()
                self.event.set()
                yields()
            assert carrying.holder is self.home
            self.inside = False
            self.calls += 1
            self.called.set()

        async def over(self):
            await asyncio.gather(*self.tasks)
            assert self.calls == 1
            assert self.woken == len(self.tasks), self.woken
            assert not self.beside, self.beside

    async def ticks(handler):
        while not handler.called.is_set():
            handler.looks()
            await asyncio.sleep(0)
"""

HOMES = {
    "blocked": "lock.acquire()",
    "in a region": "region(lock)",
    "computes in a region": "region_computes(handler)",
    "discovered": "LIBC.read(reader, b' ', 1)",
    "marked": "os.read(reader, 1)",
    "idle": "await handler.event.wait()",
    "busy": "await ticks(handler)",
}
"""What the task at home does while the signal comes."""


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("waiters", [1, 100])
def test_nothing_runs_beside_a_handler(home: str, waiters: int) -> None:
    """Wherever the home is, and whether the others have something to do: what it waits for comes after the handler."""
    play(
        SETTING,
        f"""
        import ctypes
        LIBC = ctypes.CDLL(None)

        def region(lock):
            with hybridexec.blocking():
                lock.acquire()

        def region_computes(handler):
            with hybridexec.blocking():
                while not handler.called.is_set():
                    pass

        for busy in (False, True):
            for round in range(3):
                lock = threading.Lock()
                lock.acquire()

                async def sends(handler):
                    interrupt(signal.SIGUSR1)
                    if busy:
                        await ticks(handler)
                    await handler.event.wait()
                    lock.release()
                    os.write(writer, b"x")

                async def main():
                    handler = Handler(asyncio.get_running_loop(), {waiters})
                    await asyncio.sleep(0)
                    task = asyncio.create_task(sends(handler))
                    {HOMES[home]}
                    assert asyncio.get_running_loop()._carrying.holder_ident == _thread.get_ident() or {home!r} in (
                        "idle", "busy"
                    )
                    await task
                    await handler.over()

                with pipe() as (reader, writer):
                    hybridexec.run(main())
        done()
        """,
    )


def test_a_call_that_a_handler_interrupts_is_told_of_once() -> None:
    """It goes on behind the handler as if nothing had been."""
    lines = play(
        SETTING,
        """
        class Tells(hybridexec.Instrument):
            def blocked(self, upcall):
                print("blocked", upcall.callable)

            def unblocked(self, upcall):
                print("unblocked", upcall.callable)

        async def sends(handler, lock):
            interrupt(signal.SIGUSR1)
            await handler.event.wait()
            lock.release()

        async def main():
            loop = asyncio.get_running_loop()
            home = home_of(loop)
            lock = threading.Lock()
            lock.acquire()
            handler = Handler(loop, 1)
            await asyncio.sleep(0)
            task = asyncio.create_task(sends(handler, lock))
            lock.acquire()
            await task
            await handler.over()

        hybridexec.run(main(), instruments=[Tells()])
        done()
        """,
    )
    assert lines == ["blocked _thread.lock.acquire", "unblocked _thread.lock.acquire"], lines


def test_a_step_that_computes_lends_the_loop() -> None:
    """The home is blocked, and another step waits for the handler without a call.  It goes on before all others."""
    play(
        SETTING,
        """
        for round in range(10):
            async def computes(handler, lock):
                assert not at_home()
                asyncio.get_running_loop().call_soon(order.append, "ready before")
                interrupt(signal.SIGUSR1)
                while not handler.calls:
                    pass
                order.append("computes")
                lock.release()

            async def main():
                order.clear()
                lock = threading.Lock()
                lock.acquire()
                handler = Handler(asyncio.get_running_loop(), 5)
                await asyncio.sleep(0)
                task = asyncio.create_task(computes(handler, lock))
                lock.acquire()
                await task
                await handler.over()
                assert order == ["computes", "ready before"], order

            hybridexec.run(main())
        done()
        """,
    )


def test_a_handler_does_not_wait_for_ever() -> None:
    """A pinned step waits for it, and lends nothing."""
    play(
        """
        for round in range(3):
            called = threading.Event()
            signal.signal(signal.SIGUSR1, lambda number, frame: called.set())

            async def waits(lock):
                with hybridexec.pinned():
                    interrupt(signal.SIGUSR1)
                    called.wait()
                lock.release()

            async def main():
                lock = threading.Lock()
                lock.acquire()
                task = asyncio.create_task(waits(lock))
                lock.acquire()
                await task

            hybridexec.run(main())
        done()
        """,
    )


def test_all_lwps_are_blocked() -> None:
    """The handler has the loop, which is free; and it can end what blocks them."""
    play(
        SETTING,
        """
        lock = threading.Lock()
        lock.acquire()

        def handler(number, frame):
            assert asyncio.get_running_loop()._carrying.holder is home_of(asyncio.get_running_loop())
            lock.release()

        signal.signal(signal.SIGUSR1, handler)

        def strikes(carrying):
            while not carrying.exhausted:
                time.sleep(0.001)
            interrupt(signal.SIGUSR1)

        async def blocks():
            lock.acquire()
            lock.release()

        async def main():
            threading.Thread(target=strikes, args=(asyncio.get_running_loop()._carrying,)).start()
            await asyncio.gather(blocks(), blocks())

        logging.disable()
        hybridexec.run(main(), max_lwps=2)
        done()
        """,
    )


@pytest.mark.parametrize("raises", [False, True])
def test_a_handler_that_blocks_in_a_blocked_step(raises: bool) -> None:
    """Others go on meanwhile, and it comes back before its step does: no code runs without the loop."""
    play(
        SETTING,
        f"""
        for round in range(10):
            order.clear()
            first, second = threading.Lock(), threading.Lock()
            first.acquire()
            second.acquire()

            def handler(number, frame):
                second.acquire()
                order.append("handler")
                loop = asyncio.get_running_loop()
                assert loop._carrying.holder is home_of(loop)
                if {raises}:
                    raise LookupError

            signal.signal(signal.SIGUSR1, handler)

            async def releases():
                interrupt(signal.SIGUSR1)
                while home_of(asyncio.get_running_loop()).watch.call.outer is None:
                    await asyncio.sleep(0)
                second.release()
                while "handler" not in order:
                    await asyncio.sleep(0)
                order.append("others")
                first.release()

            async def main():
                task = asyncio.create_task(releases())
                try:
                    first.acquire()
                    order.append("step")
                except LookupError:
                    order.append("raised")
                await task

            hybridexec.run(main())
            assert order == (["handler", "raised", "others"] if {raises} else ["handler", "others", "step"]), order
        done()
        """,
    )
