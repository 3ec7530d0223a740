"""nest_asyncio and nest_asyncio2: what they patch leaves our loops whole, and nesting works on them, too."""

from __future__ import annotations

import sys

import pytest
from helpers import start

MODULES = ["nest_asyncio2"] if sys.version_info >= (3, 14) else ["nest_asyncio", "nest_asyncio2"]
"""The first one is not made for 3.14, whose tasks in Python and in C do not know of each other."""

PROGRAM = """
import asyncio, os, signal, sys, threading

async def echo(reader, writer):
    writer.write(await reader.readline())
    writer.close()

async def streams():
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\\n")
        answer = await reader.readline()
        writer.close()
    return answer

async def twice(number):
    await asyncio.sleep(0)
    return number * 2

async def fails():
    await asyncio.sleep(0.001)
    raise LookupError("of the nested one")

def blocks_while_another_task_runs():
    event = threading.Event()
    asyncio.get_running_loop().call_soon(event.set)
    event.wait()

async def block(nested):
    blocks_while_another_task_runs()
    return nested
"""

NESTS = """
async def main():
    loop = asyncio.get_running_loop()
    before = asyncio.current_task()
    other = asyncio.create_task(twice(1))
    print(asyncio.run(twice(21)), loop.run_until_complete(twice(4)), other.done())
    print(loop.run_until_complete(streams()))
    try:
        loop.run_until_complete(fails())
    except LookupError as exc:
        print(exc)
    future = loop.create_future()
    loop.call_later(0.001, future.set_result, "set")
    print(loop.run_until_complete(future), loop.run_until_complete(future))

    async def deeper(depth):
        await asyncio.sleep(0)
        return depth if depth == 0 else loop.run_until_complete(deeper(depth - 1)) + 1

    print(loop.run_until_complete(deeper(5)))
    print(await asyncio.gather(*[twice(n) for n in range(3)]), await other)
    assert asyncio.current_task() is before and asyncio.get_running_loop() is loop
"""


def output(*parts: str) -> str:
    """What a program prints, which has to end well."""
    process = start("\n".join(parts), PYTHONWARNINGS="ignore")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return said


def patch(module: str) -> str:
    return f"import {module}; {module}.apply()"


IN_A_STEP = "async def first(): NEST; blocks_while_another_task_runs(); return await streams()"


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("when", ["before", "after", "in a step"])
def test_what_was_patched_leaves_the_loop_whole(module: str, when: str) -> None:
    pytest.importorskip(module)
    nest, ours = patch(module), "import hybridexec"
    parts = {
        "before": [nest, ours, PROGRAM],
        "after": [ours, PROGRAM, nest],
        "in a step": [ours, PROGRAM, IN_A_STEP.replace("NEST", nest), "print(hybridexec.run(first()))"],
    }[when]
    # It works, with input and output; it moves; and it does so the next time.
    end = "for _ in range(2):\n    print(hybridexec.run(streams()), hybridexec.run(block('moved')))"
    lines = output(*parts, end).splitlines()
    assert lines[-2:] == ["b'hello\\n' moved"] * 2


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("mode", ["handoff", "observe"])
def test_nesting(module: str, mode: str) -> None:
    pytest.importorskip(module)
    parts = [patch(module), PROGRAM, NESTS]
    expected = output(*parts, "asyncio.run(main())")
    assert "of the nested one" in expected
    run = f"import hybridexec\nhybridexec.run(main(), mode={mode!r})"
    assert output(*parts, run) == expected


@pytest.mark.parametrize("module", MODULES)
def test_a_nested_coroutine_that_blocks_moves_the_loop(module: str) -> None:
    pytest.importorskip(module)
    main = "async def main(): print(asyncio.run(block('moved')))"
    assert output(patch(module), PROGRAM, "import hybridexec", main, "hybridexec.run(main())") == "moved\n"


@pytest.mark.parametrize("module", MODULES)
def test_a_loop_within_another_one(module: str) -> None:
    pytest.importorskip(module)
    main = """
async def main():
    before = asyncio.current_task(), asyncio.get_running_loop()
    for make in hybridexec.new_event_loop, asyncio.SelectorEventLoop:
        other = make()
        getattr(nest, "_patch_loop")(other)
        print(other.run_until_complete(streams()), other.run_until_complete(twice(2)))
        other.close()
    assert before == (asyncio.current_task(), asyncio.get_running_loop())
"""
    for run in "hybridexec.run(main())", "hybridexec.run(main(), mode='observe')", "asyncio.run(main())":
        source = [patch(module), f"import {module} as nest", PROGRAM, "import hybridexec", main, run]
        assert output(*source) == "b'hello\\n' 4\n" * 2


@pytest.mark.parametrize("module", MODULES)
def test_what_a_signal_handler_raises_ends_a_nested_run(module: str) -> None:
    pytest.importorskip(module)
    main = """
class Stop(Exception):
    pass

def stops(*_):
    raise Stop

async def waits():
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.get_running_loop().create_future()

async def main():
    signal.signal(signal.SIGUSR1, stops)
    try:
        asyncio.get_running_loop().run_until_complete(waits())
    except Stop:
        print("stopped")
    await asyncio.sleep(0)
"""
    assert output(patch(module), PROGRAM, "import hybridexec", main, "hybridexec.run(main())") == "stopped\n"


def test_it_is_refused_where_nobody_has_allowed_it() -> None:
    main = """
async def main():
    loop = asyncio.get_running_loop()
    for other in loop, hybridexec.new_event_loop():
        refused = twice(1)
        try:
            other.run_until_complete(refused)
        except RuntimeError as exc:
            print(exc)
        refused.close()
    other.close()
    print(hasattr(loop, "_nest_patched"))
"""
    assert output(PROGRAM, "import hybridexec", main, "hybridexec.run(main())").splitlines() == [
        "This event loop is already running",
        "Cannot run the event loop while another loop is running",
        "False",
    ]


@pytest.mark.parametrize("module", MODULES)
def test_it_is_refused_where_nothing_could_run_meanwhile(module: str) -> None:
    pytest.importorskip(module)
    main = """
async def main():
    blocks_while_another_task_runs()  # there is a spare now
    loop = asyncio.get_running_loop()
    refused = twice(1)
    try:
        with hybridexec.pinned():
            loop.run_until_complete(refused)
    except RuntimeError as exc:
        print(exc)
    refused.close()
"""
    said = output(patch(module), PROGRAM, "import hybridexec", main, "hybridexec.run(main())")
    assert said.startswith("run_until_complete() in a step needs another thread")
