"""``signal.siginterrupt``: a call that the program wants made again after a signal is not broken off by this package.

asyncio has it so for its own handlers ("to limit EINTR occurrences").  The calls are C code's (ctypes), since Python
makes its own again.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
from helpers import environment

from hybridexec.platform.restarting import keeping, restarts

pytestmark = [
    pytest.mark.differs_by_engine,
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a call counts as ended"),
]

PROGRAM = """
    import asyncio, ctypes, faulthandler, os, signal, sys, threading
    from helpers import fresh
    import hybridexec
    from hybridexec.platform.restarting import restarts

    faulthandler.dump_traceback_later(90, exit=True)
    LIBC = ctypes.CDLL(None)
    USR1 = signal.SIGUSR1
    how = sys.argv[1]
    calls, sent = [], []

    def handler(*_):
        calls.append(1)

    def kill(ident, number, kill=signal.pthread_kill):
        sent.append(number)
        kill(ident, number)

    signal.pthread_kill = kill

    async def releases(writer):
        "When the signal has come, and the home has been nudged for it, again and again."
        kill(threading.main_thread().ident, USR1)
        while not calls and sent.count(signal.SIGURG) < 3:
            await asyncio.sleep(0)
        os.write(writer, b"x")

    async def main():
        "What nobody has declared is left in the middle of the call, and not before: the signal comes there."
        loop = asyncio.get_running_loop()
        if how == "of the loop":
            loop.add_signal_handler(USR1, handler)
        elif how == "in a step":
            signal.siginterrupt(USR1, False)
        elif how == "set anew":
            signal.signal(USR1, handler)
        reader, writer = os.pipe()
        task = asyncio.create_task(releases(writer))
        got = LIBC.read(reader, ctypes.create_string_buffer(1), 1)
        await task
        while not calls:
            await asyncio.sleep(0)
        loop.remove_signal_handler(USR1)
        return got

    signal.signal(USR1, handler)
    if how in ("before", "set anew"):
        signal.siginterrupt(USR1, False)
    for _ in range(2):
        print(hybridexec.run(fresh(main)()), restarts(USR1), end=" ")
        calls.clear()
        sent.clear()
"""


@pytest.mark.parametrize(
    ("how", "becomes"),
    [
        ("before", "1 True 1 True "),
        ("in a step", "1 True 1 True "),
        ("of the loop", "1 False 1 False "),  # whose end takes the handler away
        ("set anew", "-1 False -1 False "),
        ("never", "-1 False -1 False "),
    ],
)
def test_a_call_is_made_again_if_the_program_wants_it(how: str, becomes: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), how],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment(),
    )
    assert not done.stderr
    assert done.stdout == becomes


@pytest.fixture
def number() -> Iterator[int]:
    """A signal that has a handler."""
    former = signal.signal(signal.SIGUSR2, lambda *_: None)
    yield signal.SIGUSR2
    signal.signal(signal.SIGUSR2, former)


def test_what_the_system_tells(number: int) -> None:
    assert not restarts(number)
    signal.siginterrupt(number, False)
    assert restarts(number)
    signal.siginterrupt(number, True)
    assert not restarts(number)
    assert not restarts(12345)


@pytest.mark.parametrize("restart", [False, True])
def test_a_handler_is_set_and_nothing_else(number: int, restart: bool) -> None:
    signal.siginterrupt(number, not restart)
    keeping(signal.signal, number, signal.default_int_handler)
    assert signal.getsignal(number) is signal.default_int_handler
    assert restarts(number) is restart
