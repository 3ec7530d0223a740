"""Forks, exec, exits and signals, while steps block on other threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time

import hybridexec

from .scene import blocks, in_child, main, program, relays, right


@program
def forks(count: str = "10", ways: str = "exec,_exit,thread,in place") -> None:
    """Steps fork, each time at another moment; the child execs, ends, or runs a new loop."""
    chance = random.Random(1)

    def new_loop() -> None:
        hybridexec.run(relays(1))

    def child(way: str) -> None:
        if way == "exec":
            os.execv("/bin/true", ["true"])
        elif way == "thread":
            thread = threading.Thread(target=new_loop)
            thread.start()
            thread.join()
        elif way == "in place":
            asyncio._set_running_loop(None)
            new_loop()

    async def forker(way: str) -> None:
        for _ in range(int(count)):
            time.sleep(chance.random() * 0.004)
            assert in_child(lambda: child(way)) == 0, way
            await asyncio.sleep(chance.random() * 0.002)

    async def scene() -> None:
        blocking = asyncio.create_task(blocks(8, 5, 0.002))
        await asyncio.gather(*map(forker, ways.split(",")))
        right(await blocking, 8)
        await relays()

    hybridexec.run(scene())


def _ends_in_a_step(statement: str, where: str) -> subprocess.CompletedProcess[str]:
    """A program one of whose steps, at home or on a spare, does something that ends it, while another blocks."""
    block = "lock.acquire()" if where == "spare" else "pass"
    source = f"""
import asyncio, os, sys, threading, hybridexec
lock = threading.Lock()
lock.acquire()
async def blocked():
    {block}
async def ends():
    assert (threading.current_thread() is threading.main_thread()), "a step is at home to itself"
    assert (hybridexec.current_lwp().name != "MainThread") is {where == "spare"}
    {statement}
async def main():
    await asyncio.gather(blocked(), ends())
hybridexec.run(main())
"""
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=30)


@program
def execs() -> None:
    """A step calls exec: at home, and on a spare."""
    for where in ("home", "spare"):
        done = _ends_in_a_step("os.execv(sys.executable, [sys.executable, '-c', 'print(\"new\")'])", where)
        assert (done.returncode, done.stdout) == (0, "new\n"), done


@program
def exits_at_once() -> None:
    """A step calls os._exit: at home, and on a spare."""
    for where in ("home", "spare"):
        done = _ends_in_a_step("os._exit(7)", where)
        assert (done.returncode, done.stdout, done.stderr) == (7, "", ""), done


_BLOCKED = """
import asyncio, sys, threading, time, hybridexec
never = threading.Event()
async def stuck():
    print("blocks", flush=True)
    never.wait()
gate = threading.Lock()
gate.acquire()
async def keeps_home():
    gate.acquire()
async def main():
    first = asyncio.create_task(keeps_home())  # so the others block on spares
    tasks = [asyncio.create_task(stuck()) for _ in range(3)]
    await asyncio.sleep(0.05)
    gate.release()
    await first
    print("ready", flush=True)
    if sys.argv[1] == "raises":
        raise ValueError("main ends")
if sys.argv[1] == "no close":
    hybridexec.new_event_loop().run_until_complete(main())
elif sys.argv[1] == "thread":
    threading.Thread(target=lambda: hybridexec.run(main()), daemon=True).start()
    time.sleep(1)
elif sys.argv[1] == "executor":
    with hybridexec.HybridExecutor() as executor:
        executor.submit(stuck)
        time.sleep(0.2)
        print("ready", flush=True)
elif sys.argv[1] == "close":
    loop = hybridexec.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
else:
    hybridexec.run(main())
"""


def _exit_blocked(how: str, *signals: int) -> int:
    """A program that wants to end, with steps that are blocked for ever; its exit status after these signals."""
    process = subprocess.Popen(
        [sys.executable, "-c", _BLOCKED, how], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line == "ready\n":
            break
    for each in signals:
        time.sleep(0.3)  # until it waits; one that comes earlier is lost on nobody, but counts differently
        if process.poll() is None:
            process.send_signal(each)
    try:
        return process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError(f"{how}: does not end after {signals}") from None
    finally:
        process.stdout.close()


@program
def exits_blocked() -> None:
    """The program wants to end while steps block for ever on spares."""
    for how in ("run", "raises", "close", "executor"):
        assert _exit_blocked(how, signal.SIGTERM) == -signal.SIGTERM, how
        status = _exit_blocked(how, *[signal.SIGINT] * 6)  # at most one for each that blocks, and two more
        assert status in (1, -signal.SIGINT), (how, status)
    for how in ("no close", "thread"):  # nobody waits for them
        assert _exit_blocked(how) == 0, how


@program
def signals(seconds: str = "2") -> None:
    """A thousand signals a second."""
    calls = 0

    def handler(number: int, frame: object) -> None:
        nonlocal calls
        calls += 1

    async def scene() -> int:
        signal.siginterrupt(signal.SIGALRM, False)  # else what it ends blocks for less than a millisecond each time
        rounds = 0
        until = time.monotonic() + float(seconds)
        while time.monotonic() < until:
            right(await blocks(8, 1), 8)
            await relays(1)
            rounds += 1
        return rounds

    former = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        rounds = hybridexec.run(scene())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    print(f"{calls} calls of the handler, {rounds} rounds")
    assert rounds
    assert calls > 10 * float(seconds)


_SHUTDOWN = """
import asyncio, atexit, sys, threading, time, hybridexec
never = threading.Event()
begun = threading.Semaphore(0)
async def stuck():
    begun.release()
    never.wait()
async def busy():
    while True:
        time.sleep(0.0005)
        await asyncio.sleep(0)
async def endless():
    await asyncio.gather(*(stuck() for _ in range(3)), *(busy() for _ in range(3)))
async def short():
    lock = threading.Lock()
    lock.acquire()
    async def waits():
        lock.acquire()
    async def releases():
        lock.release()
    await asyncio.gather(waits(), releases())
    time.sleep(0.001)
    return "ours"
async def alone():
    time.sleep(0.001)
    return "ours"
async def asyncios():
    await asyncio.sleep(0.001)
    return "asyncio's"
class Loud:
    def __del__(self):
        time.sleep(0.001)
loud = Loud()
loud.me = loud
def at_exit():
    ours = short if sys.version_info >= (3, 13) else alone  # 3.12 has no threads to give from then on
    print(asyncio.run(asyncios()), hybridexec.run(ours()))
atexit.register(at_exit)
for _ in range(2):
    threading.Thread(target=lambda: hybridexec.run(endless()), daemon=True).start()
for _ in range(6):
    begun.acquire()
executor = hybridexec.HybridExecutor()
kept = hybridexec.new_event_loop()
kept.run_until_complete(short())
if sys.argv[1] == "raises":
    raise SystemExit(3)
"""


@program
def shutdown(times: str = "2") -> None:
    """The interpreter ends with everything under way: loops of daemon threads, blocked spares, loops in atexit."""
    for number in range(int(times)):
        for how in ("returns", "raises"):
            command = [sys.executable, "-c", _SHUTDOWN, how]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
            assert done.returncode == (0 if how == "returns" else 3), (number, done)
            assert done.stdout.split() == ["asyncio's", "ours"], (number, done)
            assert "Fatal" not in done.stderr, (number, done)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
