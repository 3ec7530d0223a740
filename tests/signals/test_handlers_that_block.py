"""Signal handlers of ``signal.signal`` that block where the home has no step: the loop goes on without the home.

Each handler waits for what only a task of the loop can release.
"""

from __future__ import annotations

import pytest
from test_signals import play

SETTING = """
    def handles(block):
        signal.signal(signal.SIGUSR1, lambda number, frame: block())

    class Block:
        def __init__(self):
            self.began = threading.Event()
            self.lock = threading.Lock()
            self.lock.acquire()
            self.order = []

        def __call__(self):
            self.order.append("blocks")
            self.began.set()
            self.lock.acquire()
            self.order.append("returns")

        def release(self):
            self.order.append("releases")
            self.lock.release()

    def in_state(home, *states):
        while home.state.value not in states:
            time.sleep(0)

    def strike_in_the_poll(loop, block, then):
        # From another thread.  Nothing else happens in the loop: the signal does not come in a step.
        in_state(home_of(loop), "polling")
        interrupt(signal.SIGUSR1)
        block.began.wait()
        loop.call_soon_threadsafe(then)

    async def struck_in_the_poll(block):
        loop, began = asyncio.get_running_loop(), asyncio.Event()
        threading.Thread(target=strike_in_the_poll, args=(loop, block, began.set)).start()
        await began.wait()
"""


@pytest.mark.parametrize("spares", [False, True], ids=["alone", "beside a spare"])
def test_the_home_polls(spares: bool) -> None:
    """A timer releases the handler: somebody else has to poll for it."""
    play(
        SETTING,
        f"""
        for round in range(20):
            block = Block()
            handles(block)

            async def main():
                loop = asyncio.get_running_loop()
                if {spares}:
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

            hybridexec.run(main(), engine="selector")
        done()
        """,
    )


def test_the_home_is_parked() -> None:
    """Another LWP carries the loop, and wakes the home, as it has nothing to run."""
    play(
        SETTING,
        """
        for round in range(20):
            block = Block()
            handles(block)

            async def main():
                loop = asyncio.get_running_loop()
                home = home_of(loop)
                away = loop.create_future()

                async def carries():
                    while at_home():
                        await asyncio.sleep(0)
                    with hybridexec.pinned():
                        released.release()
                        loop._write_to_self()
                        in_state(home, "parked", "returning", "polling")
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
        done()
        """,
    )


def test_the_home_waits_with_a_step() -> None:
    """Its step is back from its call, and is the next to get the loop."""
    play(
        SETTING,
        """
        for round in range(20):
            block = Block()
            handles(block)
            order = []

            async def main():
                loop = asyncio.get_running_loop()
                home = home_of(loop)
                released = threading.Lock()
                released.acquire()

                async def carries():
                    with hybridexec.pinned():
                        released.release()
                        in_state(home, "returning")
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
        done()
        """,
    )


@pytest.mark.parametrize("waits", ["released.acquire()", "LIBC.read(reader, b' ', 1)"], ids=["declared", "discovered"])
def test_a_handler_that_is_called_before_its_step_resumes(waits: str) -> None:
    """The home gets the loop back in a callback of the detector's, where the interpreter has no events for others.

    The handler blocks there, on what only the loop can release, and does not continue beside whoever has released it.
    """
    play(
        SETTING,
        f"""
        import ctypes
        LIBC = ctypes.CDLL(None)

        for round in range(10):
            with pipe() as (reader, writer):
                block = Block()

                def handler(number, frame):
                    carrying = asyncio.get_running_loop()._carrying
                    assert carrying.holder is carrying.home
                    block()
                    assert carrying.holder is carrying.home
                    block.order.append("has the loop")

                async def main():
                    signal.signal(signal.SIGUSR1, handler)
                    home = home_of(asyncio.get_running_loop())
                    released = threading.Lock()
                    released.acquire()

                    async def carries():
                        with hybridexec.pinned():
                            released.release()
                            os.write(writer, b"x")
                            in_state(home, "returning")
                            interrupt(signal.SIGUSR1)
                            while not asyncio.get_running_loop()._shield.noted:
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
                    {waits}
                    assert at_home()
                    await task
                    assert block.order == ["blocks", "releases", "still has it", "returns", "has the loop"], block.order

                hybridexec.run(main())
        done()
        """,
    )


def test_the_loop_stops_meanwhile() -> None:
    """It returns from run_forever when the handler is over."""
    play(
        SETTING,
        """
        for round in range(20):
            block = Block()
            handles(block)
            loop = hybridexec.new_event_loop(engine="selector")

            def stop():
                loop.stop()
                loop.call_later(0.001, block.release)

            strikes = threading.Thread(target=strike_in_the_poll, args=(loop, block, stop))
            loop.call_soon(strikes.start)
            loop.run_forever()
            assert block.order == ["blocks", "releases", "returns"], block.order
            loop.close()
        done()
        """,
    )


def test_what_it_raises_comes_out_of_the_run() -> None:
    play(
        SETTING,
        """
        for round in range(20):
            block = Block()

            def handler():
                block()
                raise LookupError("by the handler")

            handles(handler)

            async def main():
                await struck_in_the_poll(block)
                block.release()
                await asyncio.Event().wait()

            try:
                hybridexec.run(main(), engine="selector")
            except LookupError:
                continue
            raise SystemExit("nothing was raised")
        done()
        """,
    )


def test_one_that_interrupts_another() -> None:
    """The first one is over when the second one is."""
    play(
        SETTING,
        """
        for round in range(20):
            first, second = Block(), Block()
            handles(first)
            signal.signal(signal.SIGUSR2, lambda number, frame: second())

            async def main():
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

            hybridexec.run(main(), engine="selector")
        done()
        """,
    )


def test_others_block_meanwhile() -> None:
    """As many as there may be LWPs beside the home."""
    play(
        SETTING,
        """
        for round in range(10):
            block = Block()
            handles(block)

            async def main():
                await struck_in_the_poll(block)
                locks = [threading.Lock() for _ in range(3)]
                for lock in locks:
                    lock.acquire()

                async def blocks(lock, other):
                    lock.acquire()
                    other.release()

                tasks = [asyncio.create_task(blocks(*pair)) for pair in zip(locks, (*locks[1:], block.lock))]
                await asyncio.sleep(0.001)
                locks[0].release()
                for task in tasks:
                    await task

            hybridexec.run(main(), engine="selector", max_lwps=5)
        done()
        """,
    )


@pytest.mark.parametrize("mode", ["handoff", "observe", "raise"])
def test_it_is_told_of(mode: str) -> None:
    """With its site, like a step of no task; and where nothing is to be done about blocks, the loop stays."""
    lines = play(
        SETTING,
        f"""
        class Tells(hybridexec.Instrument):
            def blocked(self, upcall):
                self.tells(upcall, upcall.detection.value, upcall.task)
                if {mode!r} != "handoff":
                    block.lock.release()

            def unblocked(self, upcall):
                self.tells(upcall, upcall.duration > 0)

            def tells(self, upcall, *what):
                if upcall.site.function.endswith("__call__"):
                    print(upcall.kind.value, *what)

        block = Block()
        handles(block)

        async def main():
            loop = asyncio.get_running_loop()
            await struck_in_the_poll(block)
            if {mode!r} == "handoff":
                block.release()
            while "returns" not in block.order:
                await asyncio.sleep(0.001)
            assert (loop.stats().handoffs > 0) is ({mode!r} == "handoff")

        try:
            hybridexec.run(main(), engine="selector", mode={mode!r}, instruments=[Tells()])
        except hybridexec.BlockingCallError:
            assert {mode!r} == "raise"
            print("raised")
        done()
        """,
    )
    assert lines == ["blocked declared None", "raised" if mode == "raise" else "unblocked True"]


PROTOCOL = """
    def strikes(loop, name, when=lambda: True):
        # The signal comes in the middle of one of the loop's own methods, on the home, once.
        method = getattr(loop, name)

        def struck(*args):
            result = method(*args)
            if at_home() and when() and getattr(loop, name) is struck:
                setattr(loop, name, method)
                interrupt(signal.SIGUSR1)
            return result

        setattr(loop, name, struck)
"""


def test_another_comes_when_one_that_has_interrupted_a_step_is_about_to_return() -> None:
    """The first one's call is over, and waits for the loop, as a step does."""
    play(
        SETTING,
        """
        for round in range(10):
            first, second = Block(), Block()
            handles(first)
            signal.signal(signal.SIGUSR2, lambda number, frame: second())

            async def main():
                home = home_of(asyncio.get_running_loop())

                async def carries():
                    with hybridexec.pinned():
                        first.release()
                        in_state(home, "returning")
                        interrupt(signal.SIGUSR2)
                        second.began.wait()
                        in_state(home, "blocked")
                    for _ in range(20):
                        await asyncio.sleep(0.001)
                    assert "returns" not in first.order
                    second.release()

                task = asyncio.create_task(carries())
                signal.raise_signal(signal.SIGUSR1)
                assert first.order[-1] == second.order[-1] == "returns"
                await task

            hybridexec.run(main(), engine="selector")
        done()
        """,
    )


def test_another_comes_when_the_home_is_about_to_poll_again() -> None:
    """The first one has blocked in the poll; it is over, and the home waits for the loop, if it had it there."""
    play(
        SETTING,
        """
        for round in range(10):
            first, second = Block(), Block()
            handles(first)
            signal.signal(signal.SIGUSR2, lambda number, frame: second())

            async def main():
                home = home_of(asyncio.get_running_loop())
                await struck_in_the_poll(first)
                with hybridexec.pinned():
                    first.release()
                    in_state(home, "returning", "polling")
                    interrupt(signal.SIGUSR2)
                    second.began.wait()
                for _ in range(20):
                    await asyncio.sleep(0.001)
                second.release()
                while not at_home():
                    await asyncio.sleep(0.001)
                assert first.order[-1] == second.order[-1] == "returns"

            hybridexec.run(main(), engine="selector")
        done()
        """,
    )


def test_what_the_poll_has_found_is_out_of_date_when_the_handler_is_over() -> None:
    """It comes when the poll has found something; the others see to that meanwhile."""
    play(
        SETTING,
        PROTOCOL,
        """
        for round in range(10):
            block = Block()
            handles(block)
            read = []

            async def main():
                loop = asyncio.get_running_loop()
                loop.set_exception_handler(lambda loop, context: read.append(context))

                found = asyncio.Event()

                def ready():
                    read.append(os.read(reader, 1))
                    block.release()
                    found.set()

                with pipe() as (reader, writer):
                    os.set_blocking(reader, False)
                    loop.add_reader(reader, ready)
                    home = home_of(loop)

                    def write():
                        in_state(home, "polling")
                        os.write(writer, b"x")

                    await asyncio.sleep(0)
                    strikes(loop._poll, "wait", lambda: home.state.value == "polling")
                    threading.Thread(target=write).start()
                    await found.wait()
                    while not at_home():
                        await asyncio.sleep(0.001)
                    loop.remove_reader(reader)
                assert read == [b"x"], read

            hybridexec.run(main(), engine="selector")
        done()
        """,
    )
