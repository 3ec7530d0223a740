"""A thread that a step starts is what it would be on asyncio, wherever the step is taken."""

from __future__ import annotations

import asyncio
import textwrap
import threading
from typing import Any

import pytest
from helpers import ROOT, run_script
from steps import elsewhere

import hybridexec


async def makes(**options: Any) -> bool:
    """Whether a thread that is made here is a daemon."""
    return threading.Thread(**options).daemon


@pytest.mark.parametrize("home_is_daemon", [False, True])
def test_it_is_a_daemon_if_the_home_is_one(home_is_daemon: bool) -> None:
    async def main() -> list[bool]:
        return [await makes(), await elsewhere(makes())]

    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.extend(hybridexec.run(main())), daemon=home_is_daemon)
    thread.start()
    thread.join()
    assert found == [home_is_daemon] * 2


def test_a_step_that_says_what_it_is_to_be_is_heard() -> None:
    async def main() -> bool:
        return await elsewhere(makes(daemon=True))

    assert hybridexec.run(main())


def test_the_end_of_the_program_waits_for_it() -> None:
    program = """
        import asyncio, os, threading
        import hybridexec

        go_on, over = threading.Event(), threading.Event()

        def works():
            go_on.wait()
            print("worked", flush=True)

        async def starts():
            threading.Thread(target=works).start()

        async def main():
            reader, writer = os.pipe()
            task = asyncio.create_task(starts())
            task.add_done_callback(lambda _: os.write(writer, b"x"))
            os.read(reader, 1)
            await task

        hybridexec.run(main())
        threading.Timer(0, go_on.set).start()
    """
    assert "worked" in run_script("-c", textwrap.dedent(program), cwd=ROOT)


def test_a_pool_of_threads_that_a_step_makes() -> None:
    async def asks() -> bool:
        return await asyncio.to_thread(lambda: threading.current_thread().daemon)

    assert not hybridexec.run(elsewhere(asks()))
