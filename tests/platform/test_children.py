"""A process that a step has started on a spare lives as if the home had started it: a parent-death signal waits."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from helpers import ROOT, lwps, run_script, running_loop
from steps import elsewhere

import hybridexec
from hybridexec.platform import children

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/thread-self/children"), reason="this system ties nothing to the thread of a parent"
)

CHILD = "import sys; print('ready', flush=True); sys.exit(3 if sys.stdin.readline() == 'end\\n' else 4)"
PRCTL = ctypes.CDLL(None).prctl


def die_with_parent() -> None:
    """In the child: a signal comes when its parent dies, which is a thread."""
    PRCTL(1, signal.SIGTERM)


def lingering() -> list[threading.Thread]:
    """The threads that live on for their children."""
    return [thread for thread in threading.enumerate() if "-parent" in thread.name]


@pytest.fixture(autouse=True)
def they_end_with_their_children() -> Iterator[None]:
    """A moment later: it is not to be taken for one that is left."""
    yield
    for thread in lingering():
        thread.join(60)


async def retired() -> None:
    """A spare has retired.  One that polls beside the home goes on doing so until it is woken."""
    while not lingering():
        running_loop()._write_to_self()
        await asyncio.sleep(0.01)


async def popen() -> Child:
    """By ``subprocess``."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD], preexec_fn=die_with_parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    return Child(process.pid, process)


async def fork() -> Child:
    """By a plain fork, which nobody can do on behalf of the step."""
    reader, writer = os.pipe()
    ready, tells = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            die_with_parent()
            os.write(tells, b"ready")
            os._exit(3 if os.read(reader, 4) == b"end\n" else 4)
        finally:
            os._exit(5)
    os.read(ready, 5)
    for fd in reader, ready, tells:
        os.close(fd)
    return Child(pid, writer)


class Child:
    """A process that ends when it is told to, or by a signal."""

    def __init__(self, pid: int, way: int | subprocess.Popen[bytes]) -> None:
        self.pid = pid
        self.way = way  # to tell it

    def end(self) -> int:
        """Tell it to end; how it has ended."""
        if isinstance(self.way, subprocess.Popen):
            self.way.communicate(b"end\n")
            return self.way.returncode
        os.write(self.way, b"end\n")
        os.close(self.way)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.mark.parametrize("start", [popen, fork])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_of_a_spare_outlives_the_run(start: Callable[[], Awaitable[Child]]) -> None:
    threads: list[int] = []

    async def starts() -> Child:
        threads.append(threading.get_native_id())
        return await start()

    async def main() -> Child:
        child = await elsewhere(starts())
        with open(f"/proc/self/task/{threads[0]}/children") as file:
            assert str(child.pid) in file.read().split()
        return child

    child = hybridexec.run(main())
    assert not [name for name in lwps() if "-lwp-" in name]
    parents = lingering()
    assert [thread.native_id for thread in parents] == threads
    assert child.end() == 3
    for thread in parents:
        thread.join()


def test_a_child_of_a_spare_that_retires_lives_on() -> None:
    """The spare is one too many, and ends while the loop runs."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        child = await elsewhere(popen())
        await retired()
        assert loop.is_running()
        parents = lingering()
        code = child.end()
        for thread in parents:
            thread.join()
        return code

    assert hybridexec.run(main(), lwp_idle_timeout=0.02, spare_lwps=0) == 3


def test_a_child_that_asyncio_waits_for_ends_when_it_is_told_to() -> None:
    async def starts() -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CHILD), preexec_fn=die_with_parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        await process.stdout.readline()
        return process

    async def main() -> int | None:
        process = await elsewhere(starts())
        await retired()
        await process.communicate(b"end\n")
        return process.returncode

    assert hybridexec.run(main(), lwp_idle_timeout=0.02, spare_lwps=0) == 3


@pytest.mark.parametrize("place", ["home", "bound", "bound, a function", "1:1"])
def test_a_child_of_a_thread_of_an_executor_outlives_that(place: str) -> None:
    """The executor is shut down, and its next bound user thread begins, although the child lives."""
    threads: list[int] = []

    async def starts() -> Child:
        threads.append(threading.get_native_id())
        return await popen()

    model: Any = "1:1" if place == "1:1" else "m:n"
    bound = place.startswith("bound")
    with hybridexec.HybridExecutor(loops=1, model=model, max_lwps=2) as executor:
        if place.endswith("function"):
            child = executor.spawn(lambda: asyncio.run(starts()), bound=bound).result()
        else:
            child = executor.spawn(starts, bound=bound).result()
        if place == "home":
            home = executor._crew.loop_threads[0].thread
            assert home is not None
            assert threads == [home.native_id]
        else:
            while not lingering():
                pass
        assert executor.spawn(os.getpid, bound=bound).result() == os.getpid()
    (parent,) = lingering()
    assert [parent.native_id] == threads
    assert child.end() == 3
    parent.join()


def test_nobody_lingers_for_a_child_that_has_ended() -> None:
    async def main() -> int:
        child = await elsewhere(popen())
        return child.end()

    assert hybridexec.run(main()) == 3
    assert not lingering()


def test_a_process_ends_though_a_thread_lingers() -> None:
    program = """
        import asyncio, os, subprocess, sys, threading, warnings
        import hybridexec

        async def starts():
            return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

        async def main():
            reader, writer = os.pipe()
            task = asyncio.create_task(starts())
            task.add_done_callback(lambda _: os.write(writer, b"x"))
            os.read(reader, 1)
            return await task

        process = hybridexec.run(main())
        print([thread.name for thread in threading.enumerate() if "parent" in thread.name], flush=True)
        warnings.simplefilter("ignore", ResourceWarning)
    """
    output = run_script("-c", textwrap.dedent(program), cwd=ROOT)
    assert "hybridexec-parent-" in output


def test_what_has_ended_and_nobody_has_waited_for_is_not_living() -> None:
    found: list[int] = [-1]

    def asks() -> None:  # a thread of its own: others may have children
        process = subprocess.Popen([sys.executable, "-c", ""])
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        found[:] = children.living()
        process.wait()

    thread = threading.Thread(target=asks)
    thread.start()
    thread.join()
    assert found == []
