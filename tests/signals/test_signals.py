"""Signals: Ctrl-C wherever the main thread is, and what only the main thread may do, from any LWP.

Each test is a program of its own, which prints what became of it.  What the programs share is ``PRELUDE``.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest
from helpers import environment

pytestmark = pytest.mark.differs_by_engine

PRELUDE = """
    import _thread, asyncio, contextlib, faulthandler, logging, os, random, signal, sys, threading, time
    import hybridexec

    faulthandler.dump_traceback_later(90, exit=True)
    MAIN = threading.main_thread()

    def at_home():
        return _thread.get_ident() == MAIN.ident

    def interrupt(number=signal.SIGINT):
        signal.pthread_kill(MAIN.ident, number)

    @contextlib.contextmanager
    def pipe():
        reader, writer = os.pipe()
        try:
            yield reader, writer
        finally:
            os.close(reader)
            os.close(writer)

    def home_of(loop):
        return loop._carrying.home

    def done():
        left = [t.name for t in threading.enumerate() if t.name.startswith("hybridexec-")]
        assert not left, left
        print("done", flush=True)
"""


def launch(*sources: str) -> subprocess.Popen[str]:
    """Start a program."""
    return subprocess.Popen(
        [sys.executable, "-c", "".join(map(textwrap.dedent, (PRELUDE, *sources)))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def outcome(process: subprocess.Popen[str]) -> tuple[int, list[str], str]:
    """Wait for a program: its exit status, the lines it has printed, and what went to stderr."""
    out, errors = process.communicate(timeout=100)
    assert "Timeout (" not in errors, f"the program hangs:\n{errors}"
    return process.returncode, out.splitlines(), errors


def play(*sources: str) -> list[str]:
    """Run a program that has to end well: what it has printed before its last line."""
    status, lines, errors = outcome(launch(*sources))
    assert status == 0, errors
    assert lines[-1:] == ["done"], (lines, errors)
    assert "Traceback" not in errors, errors
    return lines[:-1]


# ---------------------------------------------------------------- Ctrl-C, asyncio.run's way


def test_ctrl_c_cancels_a_main_task_that_is_elsewhere_while_the_home_is_blocked() -> None:
    """Only what the main task does when it is cancelled releases the home."""
    play(
        """
        for round in range(30):
            lock = threading.Lock()
            lock.acquire()

            async def blocks():
                assert at_home()
                lock.acquire()

            async def main():
                task = asyncio.create_task(blocks())
                await asyncio.sleep(0)
                assert not at_home()
                interrupt()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    assert not at_home()
                    lock.release()
                    await task
                    raise

            try:
                hybridexec.run(main())
            except KeyboardInterrupt:
                continue
            raise SystemExit("no KeyboardInterrupt")
        done()
        """,
    )


@pytest.mark.parametrize(
    ("block", "release"),
    [
        ("lock.acquire()", "lock.release()"),
        ("os.read(reader, 1)", "os.write(writer, b'x')"),
        ("[time.sleep(0.002) for _ in iter(lambda: released, True)]", "released = True"),
        ("lock.__enter__()", "lock.release()"),
    ],
)
def test_ctrl_c_cancels_a_main_task_that_is_blocked_at_home(block: str, release: str) -> None:
    """As on asyncio it gets its cancellation at its next await: the blocking call itself goes on."""
    play(
        f"""
        for round in range(20):
            with pipe() as (reader, writer):
                lock = threading.Lock()
                lock.acquire()
                released = False
                order = []

                async def releases(task):
                    global released
                    assert not at_home()
                    interrupt()
                    while not task.cancelling():
                        await asyncio.sleep(0)
                    order.append("is cancelled")
                    {release}

                async def main():
                    helper = asyncio.create_task(releases(asyncio.current_task()))
                    {block}
                    order.append("goes on")
                    try:
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:
                        order.append("is told")
                        await helper
                        raise

                try:
                    hybridexec.run(main())
                except KeyboardInterrupt:
                    assert order == ["is cancelled", "goes on", "is told"], order
                    continue
                raise SystemExit("no KeyboardInterrupt")
        done()
        """,
    )


def test_ctrl_c_comes_while_the_home_is_parked() -> None:
    play(
        """
        for round in range(20):
            with pipe() as (reader, writer), pipe() as (reader2, writer2):
                order = []

                async def away(main_task):
                    loop = asyncio.get_running_loop()
                    assert not at_home()
                    os.write(writer, b"x")
                    loop.call_soon(threading.Thread(target=frees).start)
                    os.read(reader2, 1)  # comes back while the home polls
                    home = home_of(loop)
                    if at_home() or home.state.value == "returning":
                        return
                    with hybridexec.pinned():
                        loop._write_to_self()  # ends the home's poll, which it loses
                        while home.state.value != "parked":
                            if home.state.value == "returning":
                                return  # it was late to come back from its call
                        interrupt()
                        while not main_task.cancelling():
                            pass
                    order.append("parked")

                def frees():
                    time.sleep(0.005)
                    os.write(writer2, b"x")

                async def main():
                    task = asyncio.create_task(away(asyncio.current_task()))
                    assert at_home()
                    os.read(reader, 1)
                    try:
                        await task
                        interrupt()
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:
                        order.append("is told")
                        raise

                try:
                    hybridexec.run(main())
                except KeyboardInterrupt:
                    print(*order)
                    continue
                raise SystemExit("no KeyboardInterrupt")
        done()
        """
    ).index("parked is told")


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_comes_while_the_home_waits_for_its_turn(times: int) -> None:
    """The home's step is back from its call and queues; another step holds the loop.  The second Ctrl-C raises."""
    play(
        f"""
        for round in range(20):
            with pipe() as (reader, writer):
                order = []

                async def holds(main_task):
                    assert not at_home()
                    home = home_of(asyncio.get_running_loop())
                    with hybridexec.pinned():
                        os.write(writer, b"x")
                        while home.state.value != "returning":
                            pass
                        interrupt()
                        while not main_task.cancelling():
                            pass
                        if {times} == 2:
                            interrupt()
                            while home.interrupt is None:
                                pass
                        order.append("holds")

                async def main():
                    helper = asyncio.create_task(holds(asyncio.current_task()))
                    try:
                        os.read(reader, 1)
                        order.append("goes on")
                        await asyncio.Event().wait()
                    except BaseException as exc:
                        order.append(type(exc).__name__)
                        raise

                try:
                    hybridexec.run(main())
                except KeyboardInterrupt:
                    if {times} == 2:
                        assert order == ["holds", "KeyboardInterrupt"], order
                    else:
                        assert order == ["holds", "goes on", "CancelledError"], order
                    continue
                raise SystemExit("no KeyboardInterrupt")
        done()
        """
    )


def test_ctrl_c_comes_while_the_home_carries_a_busy_step() -> None:
    play(
        """
        for round in range(20):
            order = []

            async def main():
                task = asyncio.current_task()
                time.sleep(0.001)
                while not at_home():
                    await asyncio.sleep(0)
                threading.Thread(target=interrupt).start()
                while not task.cancelling():
                    pass
                order.append("goes on")
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    order.append("is told")
                    raise

            try:
                hybridexec.run(main())
            except KeyboardInterrupt:
                assert order == ["goes on", "is told"], order
                continue
            raise SystemExit("no KeyboardInterrupt")
        done()
        """
    )


@pytest.mark.parametrize("block", ["lock.acquire()", "os.read(reader, 1)", "time.sleep(60)"])
def test_the_second_ctrl_c_breaks_the_blocking_call_at_home(block: str) -> None:
    """Nothing else would ever end the call: it raises KeyboardInterrupt, as on asyncio."""
    play(
        f"""
        for round in range(20):
            with pipe() as (reader, writer):
                lock = threading.Lock()
                lock.acquire()
                order = []

                async def twice(task):
                    assert not at_home()
                    interrupt()
                    while not task.cancelling():
                        await asyncio.sleep(0)
                    interrupt()

                async def main():
                    helper = asyncio.create_task(twice(asyncio.current_task()))
                    try:
                        {block}
                    except KeyboardInterrupt:
                        order.append("raised")
                        assert asyncio.get_running_loop()._carrying.holder_ident == _thread.get_ident()
                        raise

                try:
                    hybridexec.run(main())
                except KeyboardInterrupt:
                    assert order == ["raised"], order
                    continue
                raise SystemExit("no KeyboardInterrupt")
        done()
        """,
    )


MAIN_BLOCKS_ON_A_SPARE = """
    import ctypes

    LIBC = ctypes.CDLL(None)
    order = []

    class Tells(logging.Handler):
        def emit(self, record):
            assert asyncio.get_running_loop()  # in a step
            order.append(record.getMessage().split(":")[0] + (" waits" if "gets it when" in record.msg else " ends"))
            tell(record.msg)

    logging.getLogger("hybridexec").addHandler(Tells())

    def in_its_call(lwp):
        return sys._current_frames()[lwp.ident].f_code.co_filename == "<string>"

    def idle(loop):
        home = home_of(loop)
        while home.state.value != "polling" or not all(map(in_its_call, list(loop._carrying.detached))):
            time.sleep(0.001)

    def interrupts(loop, task, times):
        idle(loop)
        interrupt()
        while not task.cancelling():
            time.sleep(0.001)
        for _ in range(times - 1):
            said = len(order)
            idle(loop)
            interrupt()
            while len(order) == said:
                time.sleep(0.001)

    kept, keeper = os.pipe()

    async def on_a_spare(times):
        loop = asyncio.get_running_loop()
        loop.call_soon(os.read, kept, 1)
        await asyncio.sleep(0)
        assert not at_home()
        thread = threading.Thread(target=interrupts, args=(loop, asyncio.current_task(), times))
        loop.call_soon(thread.start)
        loop.call_soon(os.write, keeper, b"x")
"""


@pytest.mark.parametrize("block", ["os.read(reader, 1)", "LIBC.read(reader, b' ', 1)", "region(reader)"])
def test_the_second_ctrl_c_comes_up_in_a_main_task_that_is_blocked_on_a_spare(block: str) -> None:
    """Its call cannot be broken off: it ends because the log has said that it is waited for.  The loop goes on."""
    play(
        MAIN_BLOCKS_ON_A_SPARE,
        f"""
        def tell(message):
            os.write(writer, b"x")

        def region(reader):
            with hybridexec.blocking():
                os.read(reader, 1)

        async def main():
            await on_a_spare(2)
            try:
                {block}
            except BaseException as exc:
                order.append(type(exc).__name__)
                raise

        with pipe() as (reader, writer):
            try:
                hybridexec.run(main())
            except KeyboardInterrupt:
                order.append("run")
        assert order == ["KeyboardInterrupt waits", "KeyboardInterrupt", "run"], order
        done()
        """,
    )


def test_the_third_ctrl_c_ends_the_run_although_the_main_task_is_still_blocked() -> None:
    """Who waits for the tasks then is told in the log; the main task has its cancellation."""
    play(
        MAIN_BLOCKS_ON_A_SPARE,
        """
        def tell(message):
            if "the run ends" in message:
                order.append("releases")
                os.write(writer, b"x")

        async def main():
            await on_a_spare(3)
            try:
                os.read(reader, 1)
                await asyncio.sleep(0)
            except BaseException as exc:
                order.append(type(exc).__name__)
                raise

        with pipe() as (reader, writer):
            try:
                hybridexec.run(main())
            except KeyboardInterrupt as exc:
                order.append("run")
                assert type(exc.__context__) is KeyboardInterrupt
        ended = ["KeyboardInterrupt waits", "KeyboardInterrupt ends", "releases", "CancelledError", "run"]
        assert order == ended, order
        done()
        """,
    )


def test_what_was_passed_on_is_raised_out_of_the_run_if_the_step_raises_something_else() -> None:
    play(
        MAIN_BLOCKS_ON_A_SPARE,
        """
        import socket, struct

        def tell(message):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()

        async def main():
            await on_a_spare(2)
            try:
                client.recv(1)
            except ConnectionResetError:
                order.append("fails")
            await asyncio.sleep(0)

        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
            peer, _ = server.accept()
            try:
                hybridexec.run(main())
            except KeyboardInterrupt:
                order.append("run")
        assert order == ["KeyboardInterrupt waits", "fails", "run"], order
        done()
        """,
    )


BLOCKS_AND_SAYS_SO = """
    async def main():
        async def blocks():
            try:
                {block}
            except KeyboardInterrupt:
                print("broken", flush=True)
                raise
        async def waits():
            print("ready", flush=True)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                print("cancelled", flush=True)
                {release}
                raise
        lock = threading.Lock()
        lock.acquire()
        if {main_blocks}:
            asyncio.create_task(waits())
            await blocks()
        else:
            asyncio.create_task(blocks())
            await asyncio.sleep(0)
            await waits()
    hybridexec.run(main())
"""


def test_ctrl_c_from_outside_ends_the_program_as_asyncio_does() -> None:
    """The exit status and the traceback are those of a KeyboardInterrupt."""
    process = launch(BLOCKS_AND_SAYS_SO.format(block="lock.acquire()", release="lock.release()", main_blocks=False))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    status, lines, errors = outcome(process)
    assert lines == ["cancelled"]
    assert status == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_ctrl_c_twice_from_outside_ends_a_program_whose_call_never_ends() -> None:
    process = launch(BLOCKS_AND_SAYS_SO.format(block="lock.acquire()", release="pass", main_blocks=False))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "cancelled\n"
    process.send_signal(signal.SIGINT)
    status, lines, errors = outcome(process)
    assert lines == ["broken"]
    assert status == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")


# ---------------------------------------------------------------- handlers that raise, anywhere


def test_the_default_handler_raises_out_of_run_forever() -> None:
    """Wherever the loop is just then; and it can be run again."""
    play(
        """
        signal.signal(signal.SIGINT, signal.default_int_handler)
        seed = random.randrange(2**32)
        print("seed", seed)
        rng = random.Random(seed)

        async def moves():
            with contextlib.suppress(asyncio.CancelledError):
                while True:
                    time.sleep(0.001)
                    await asyncio.sleep(0.0005)

        async def awaits():
            for _ in range(10):
                await asyncio.sleep(0)

        for round in range(40):
            loop = hybridexec.new_event_loop()
            tasks = [loop.create_task(moves()) for _ in range(3)]
            sent = threading.Timer(rng.random() * 0.02, interrupt)
            try:
                sent.start()
                loop.run_forever()
            except KeyboardInterrupt:
                pass
            else:
                raise SystemExit("no KeyboardInterrupt")
            assert not loop.is_running()
            for task in tasks:
                task.cancel()
            loop.run_until_complete(awaits())
            loop.run_until_complete(asyncio.wait(tasks))
            loop.close()
        done()
        """
    )


def test_ctrl_c_at_any_time_ends_run() -> None:
    """Tasks block all the time; Ctrl-C comes at random."""
    play(
        """
        seed = random.randrange(2**32)
        print("seed", seed)
        rng = random.Random(seed)

        async def moves():
            while True:
                time.sleep(0.001)
                await asyncio.sleep(0.0005)

        async def main(timer):
            timer.start()
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(moves())

        for round in range(60):
            try:
                hybridexec.run(main(threading.Timer(rng.random() * 0.02, interrupt)))
            except KeyboardInterrupt:
                continue
            raise SystemExit("no KeyboardInterrupt")
        done()
        """
    )


def test_a_handler_that_raises_breaks_the_call_that_the_home_is_blocked_in() -> None:
    play(
        """
        class Alarm(Exception):
            pass

        def handler(number, frame):
            raise Alarm

        signal.signal(signal.SIGUSR1, handler)
        for round in range(30):
            lock = threading.Lock()
            lock.acquire()

            async def raises():
                assert not at_home()
                interrupt(signal.SIGUSR1)

            async def main():
                task = asyncio.create_task(raises())
                try:
                    lock.acquire()
                except Alarm:
                    assert asyncio.get_running_loop()._carrying.holder_ident == _thread.get_ident()
                    await task
                    return 42

            assert hybridexec.run(main()) == 42
        done()
        """,
    )


@pytest.mark.parametrize("known", [False, True], ids=["discovered", "declared"])
def test_a_handler_that_raises_after_a_call_that_looks_for_no_signals(known: bool) -> None:
    """It is called as soon as the call is over; what it raises is raised when the home holds the loop again."""
    play(
        f"""
        import ctypes, types
        libc = ctypes.CDLL(None)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if {known}:
            hybridexec.register_blocking(libc.read)
        buffer = ctypes.create_string_buffer(1)

        for round in range(20):
            with pipe() as (reader, writer):
                order = []

                async def holds():
                    assert not at_home()
                    await asyncio.sleep(0)
                    with hybridexec.pinned():
                        interrupt()
                        os.write(writer, b"x")
                        until = time.monotonic() + 0.01
                        while time.monotonic() < until:
                            pass
                        order.append("holds")

                async def main():
                    task = asyncio.create_task(holds())
                    try:
                        libc.read(reader, buffer, 1)
                    except KeyboardInterrupt:
                        order.append("raised")
                        assert asyncio.get_running_loop()._carrying.holder_ident == _thread.get_ident()
                        raise

                with asyncio.Runner(loop_factory=hybridexec.new_event_loop) as runner:
                    loop = runner.get_loop()
                    task = loop.create_task(main())
                    try:
                        loop.run_until_complete(task)
                    except KeyboardInterrupt:
                        assert order == ["holds", "raised"], order
                    else:
                        raise SystemExit("no KeyboardInterrupt")
        done()
        """
    )


# ---------------------------------------------------------------- handlers


HANDLER = """
        log = logging.getLogger("test")
        log.addHandler(logging.NullHandler())
        log.setLevel(logging.INFO)
        free = threading.RLock()
        calls = 0

        def handler(number, frame):
            global calls
            assert at_home()
            {body}
            calls += 1
"""


@pytest.mark.parametrize(
    "body",
    ["pass", "log.info('handled')", "free.acquire(); free.release()", "time.sleep(0.001)", "os.write(2, b'')"],
    ids=["nothing", "logs", "locks", "sleeps", "writes"],
)
def test_a_handler_runs_while_the_home_is_blocked(body: str) -> None:
    """Each time it is the home's step that has to be released by another, though the handler may block itself."""
    play(
        HANDLER.format(body=body)
        + """
        signal.signal(signal.SIGUSR1, handler)
        for round in range(20):
            with pipe() as (reader, writer):

                async def releases():
                    assert not at_home()
                    for _ in range(3):
                        before = calls
                        interrupt(signal.SIGUSR1)
                        while calls == before:
                            await asyncio.sleep(0)
                    os.write(writer, b"x")

                async def main():
                    task = asyncio.create_task(releases())
                    os.read(reader, 1)
                    assert asyncio.get_running_loop()._carrying.holder_ident == _thread.get_ident()
                    await task
                    assert calls == 3 * round + 3

                hybridexec.run(main())
        done()
        """,
    )


def test_a_signal_that_comes_just_before_the_call_is_handled_all_the_same() -> None:
    """CPython looks for signals no more once the instruction has begun, and the system call begins with one pending."""
    play(
        """
        import collections, ctypes, functools, operator
        LIBC = ctypes.CDLL(None)
        handled = []
        signal.signal(signal.SIGTERM, lambda number, frame: handled.append(at_home()))

        async def releases(writer):
            while not handled:
                await asyncio.sleep(0)
            assert not at_home()
            os.write(writer, b"x")

        async def main():
            with pipe() as (reader, writer):
                task = asyncio.create_task(releases(writer))
                # Both in one instruction, and no Python between them.
                signals = functools.partial(getattr(LIBC, "raise"), signal.SIGTERM.value)
                collections.deque(map(operator.call, (signals, functools.partial(os.read, reader, 1))))
                await task

        for round in range(3):
            handled.clear()
            hybridexec.run(main())
            assert handled == [True]
            assert signal.getsignal(signal.SIGURG) == signal.SIG_DFL
        done()
        """
    )


def test_a_program_keeps_its_handler_of_the_signal_that_nudges() -> None:
    play(
        """
        urgent = []
        handler = lambda number, frame: urgent.append(number)
        signal.signal(signal.SIGURG, handler)

        async def main():
            assert signal.getsignal(signal.SIGURG) is handler
            interrupt(signal.SIGURG)
            while not urgent:
                await asyncio.sleep(0)

        hybridexec.run(main())
        assert urgent == [signal.SIGURG]
        assert signal.getsignal(signal.SIGURG) is handler
        done()
        """
    )


@pytest.mark.parametrize(
    "body",
    ["pass", "log.info('handled')", "free.acquire(); free.release()", "time.sleep(0.001)"],
    ids=["nothing", "logs", "locks", "sleeps"],
)
def test_a_handler_runs_while_the_home_waits_for_its_turn(body: str) -> None:
    """The home's step is back from its call, and another step holds the loop."""
    play(
        HANDLER.format(body="entered.set()\n            " + body)
        + """
        entered = threading.Event()
        signal.signal(signal.SIGUSR1, handler)
        for round in range(20):
            with pipe() as (reader, writer):

                async def holds():
                    assert not at_home()
                    home = home_of(asyncio.get_running_loop())
                    with hybridexec.pinned():
                        os.write(writer, b"x")
                        while home.state.value != "returning":
                            pass
                        entered.clear()
                        interrupt(signal.SIGUSR1)
                        while not entered.is_set():
                            pass

                async def main():
                    task = asyncio.create_task(holds())
                    os.read(reader, 1)
                    assert asyncio.get_running_loop()._carrying.holder_ident == _thread.get_ident()
                    await task
                    for _ in range(5):
                        await asyncio.sleep(0.001)

                hybridexec.run(main())
                assert calls == round + 1
        done()
        """
    )


@pytest.mark.parametrize(
    "body", ["pass", "log.info('handled')", "time.sleep(0.0002)"], ids=["nothing", "logs", "sleeps"]
)
def test_handlers_run_at_any_time(body: str) -> None:
    """Tasks block all the time, and signals come at random."""
    play(
        HANDLER.format(body=body)
        + """
        signal.signal(signal.SIGUSR1, handler)
        seed = random.randrange(2**32)
        print("seed", seed)
        rng = random.Random(seed)
        over = threading.Event()

        def sends():
            while not over.wait(rng.random() * 0.002):
                interrupt(signal.SIGUSR1)

        async def moves():
            for _ in range(150):
                time.sleep(0.001)
                await asyncio.sleep(0.0005)

        async def main():
            async with asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(moves())

        thread = threading.Thread(target=sends)
        thread.start()
        hybridexec.run(main())
        over.set()
        thread.join()
        assert calls > 10
        done()
        """
    )


@pytest.mark.parametrize("where", ["at home", "on a spare"])
def test_the_loop_handles_signals(where: str) -> None:
    """``loop.add_signal_handler`` and its counterpart; the callback is a step like any other."""
    play(
        f"""
        async def body():
            assert at_home() or {where == "on a spare"}
            loop = asyncio.get_running_loop()
            for number in signal.SIGUSR1, signal.SIGTERM:
                for round in range(5):
                    came = asyncio.Event()
                    loop.add_signal_handler(number, came.set)
                    os.kill(os.getpid(), number)
                    await came.wait()
                    assert loop.remove_signal_handler(number)
                    assert not loop.remove_signal_handler(number)
                    assert signal.getsignal(number) is signal.SIG_DFL

        async def main():
            if {where == "at home"}:
                return await body()
            over = False

            async def releases():
                nonlocal over
                await body()
                over = True

            task = asyncio.create_task(releases())
            await asyncio.sleep(0)
            # The home has to serve others between two blocks.
            while not over:
                time.sleep(0.003)
                await asyncio.sleep(0.0001)
            await task

        for round in range(5):
            hybridexec.run(main())
        done()
        """
    )


def test_a_signal_of_the_loop_is_handled_while_the_home_is_blocked() -> None:
    """Only the loop's own handler of the signal releases the home."""
    play(
        """
        for round in range(20):
            with pipe() as (reader, writer):

                async def blocks():
                    assert at_home()
                    os.read(reader, 1)

                def handler():
                    assert not at_home()
                    os.write(writer, b"x")

                async def main():
                    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, handler)
                    task = asyncio.create_task(blocks())
                    await asyncio.sleep(0)
                    assert not at_home()
                    os.kill(os.getpid(), signal.SIGUSR1)
                    await task

                hybridexec.run(main())
        done()
        """
    )


def test_what_only_the_main_thread_may_do_is_done_for_a_spare() -> None:
    play(
        """
        import socket

        for round in range(30):
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            theirs.setblocking(False)
            with pipe() as (reader, writer), ours, theirs:
                came = []

                async def spare():
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

                async def release():
                    os.write(writer, b"x")

                async def main():
                    task = asyncio.create_task(spare())
                    os.read(reader, 1)
                    await task
                    assert came == [signal.SIGUSR1, 22], came

                hybridexec.run(main())
        done()
        """
    )


@pytest.mark.parametrize("blocks", ["lock.acquire()", "os.read(reader, 1)", "explicit(lock)"])
def test_what_only_the_main_thread_may_do_is_done_in_the_middle_of_a_block(blocks: str) -> None:
    """What blocks the home is released by the very step that needs the home."""
    play(
        f"""
        def explicit(lock):
            with hybridexec.blocking():
                lock.acquire()

        for round in range(5):
            with pipe() as (reader, writer):
                lock = threading.Lock()
                lock.acquire()
                came = []

                async def home():
                    assert at_home()
                    {blocks}

                async def spare():
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
                    lock.release()
                    os.write(writer, b"x")

                async def main():
                    await asyncio.gather(home(), spare())
                    assert set(came) == {{signal.SIGUSR1, "loop's"}}, came

                hybridexec.run(main())
        done()
        """
    )


def test_a_handler_runs_while_the_home_is_blocked_and_another_step_computes() -> None:
    """That step waits for the handler without a call, and sends the signal to the thread that it runs on."""
    play(
        """
        came = []
        signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))

        async def main():
            with pipe() as (reader, writer):

                async def home():
                    assert at_home()
                    os.read(reader, 1)

                async def computes():
                    assert not at_home()
                    signal.pthread_kill(_thread.get_ident(), signal.SIGUSR1)
                    while not came:
                        pass
                    os.write(writer, b"x")

                await asyncio.gather(home(), computes())

        hybridexec.run(main())
        done()
        """
    )


@pytest.mark.parametrize("sets", ["signal.alarm(1)", "signal.setitimer(signal.ITIMER_REAL, 0.01)"])
@pytest.mark.parametrize("bounded", ["while True: pass", "lock.acquire(timeout=1.2)", "work()"])
def test_who_has_set_an_alarm_gets_what_its_handler_raises(sets: str, bounded: str) -> None:
    """Not whoever the main thread runs: that is blocked in another step."""
    play(
        f"""
        class TimesUp(Exception):
            pass

        def handler(number, frame):
            raise TimesUp

        def work():
            while True:
                sum(range(100))

        signal.signal(signal.SIGALRM, handler)

        async def main():
            with pipe() as (reader, writer):
                lock = threading.Lock()
                lock.acquire()

                async def home():
                    assert at_home()
                    os.read(reader, 1)
                    return "undisturbed"

                async def sets():
                    assert not at_home()
                    try:
                        {sets}
                        {bounded}
                    except TimesUp:
                        assert not at_home()
                        return "timed out"
                    finally:
                        os.write(writer, b"x")

                assert await asyncio.gather(home(), sets()) == ["undisturbed", "timed out"]

        hybridexec.run(main())
        done()
        """
    )


@pytest.mark.parametrize("where", ["home", "spare"])
def test_a_step_waits_for_a_signal(where: str) -> None:
    """Which another task sends."""
    play(
        f"""
        for round in range(20):
            lock = threading.Lock()
            lock.acquire()
            came = []

            async def blocks():
                lock.acquire()

            async def waits():
                assert at_home() is ({where!r} == "home")
                signal.pause()
                came.append("goes on")

            async def sends():
                came.append("sends")
                os.kill(os.getpid(), signal.SIGUSR1)

            async def main():
                signal.signal(signal.SIGUSR1, lambda number, frame: came.append("handler"))
                tasks = [] if {where!r} == "home" else [asyncio.create_task(blocks())]
                tasks += asyncio.create_task(waits()), asyncio.create_task(sends())
                await tasks[-2]
                assert came == ["sends", "handler", "goes on"], came
                lock.release()
                await asyncio.wait(tasks)

            hybridexec.run(main())
        done()
        """
    )


def test_what_a_handler_raises_ends_the_wait_for_a_signal() -> None:
    play(
        """
        def handler(number, frame):
            raise LookupError

        signal.signal(signal.SIGUSR1, handler)

        async def waits():
            try:
                signal.pause()
            except LookupError:
                return "raised"

        async def main():
            task = asyncio.create_task(waits())
            asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGUSR1)
            assert await task == "raised"

        hybridexec.run(main())
        done()
        """
    )


def test_a_thread_that_is_no_lwp_is_refused_as_ever() -> None:
    play(
        """
        async def main():
            def sets():
                try:
                    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
                except ValueError:
                    return "refused"
            return await asyncio.to_thread(sets)

        assert hybridexec.run(main()) == "refused"
        done()
        """
    )


def test_a_signal_that_comes_while_the_loop_does_not_run_is_handled_in_its_next_run() -> None:
    play(
        """
        loop = hybridexec.new_event_loop()
        for register in (True, False):  # registered while it rests, and while it runs
            came = loop.create_future()
            if register:
                loop.add_signal_handler(signal.SIGUSR1, lambda: came.set_result(None))
                loop.run_until_complete(asyncio.sleep(0))
            else:
                async def main():
                    loop.add_signal_handler(signal.SIGUSR1, lambda: came.set_result(None))
                loop.run_until_complete(main())
            interrupt(signal.SIGUSR1)
            loop.run_until_complete(came)
            assert loop.remove_signal_handler(signal.SIGUSR1)
            assert signal.set_wakeup_fd(-1) == -1
        loop.close()
        done()
        """
    )


def test_the_last_handler_is_removed_and_signals_still_end_the_poll() -> None:
    play(
        """
        async def main():
            import _signal

            loop = asyncio.get_running_loop()
            before = _signal.set_wakeup_fd(-1)
            _signal.set_wakeup_fd(before)
            loop.add_signal_handler(signal.SIGUSR1, int)
            loop.remove_signal_handler(signal.SIGUSR1)
            assert _signal.set_wakeup_fd(before) == before != -1

        hybridexec.run(main())
        assert signal.set_wakeup_fd(-1) == -1
        done()
        """
    )
