"""No value of a suite in what the plugin says.  (What pytest itself shows of a test that fails is pytest's.)"""

from __future__ import annotations

import re

import pytest
from helpers import environment

pytest_plugins = "pytester"

pytestmark = pytest.mark.slow

SECRET = "hunter2"

PLAIN = ("-p", "no:cacheprovider", "-p", "no:asyncio")

SUITE = """
    import asyncio, ctypes, os, threading, zlib
    import pytest, hybridexec

    SECRET = os.environ["SECRET"]
    crc32 = zlib.crc32
    hybridexec.register_blocking(crc32, will_block=lambda argument: True)

    class Value:
        def __repr__(self):
            return SECRET
        __str__ = __repr__

    class Lock(type(threading.RLock())):
        __repr__ = Value.__repr__

    def declared():
        crc32(SECRET.encode())

    def explicit():
        with hybridexec.blocking():
            pass

    def discovered():
        "Until it was noticed, or has shown that it is not; the buffer has what nobody is to see."
        reader, writer = os.pipe()
        timer = threading.Timer(0.2, os.write, (writer, SECRET.encode()))
        timer.start()
        try:
            ctypes.CDLL(None).read(reader, ctypes.create_string_buffer(SECRET.encode()), 1)
        finally:
            timer.join()

    @pytest.fixture
    def blocks():
        asyncio.run(step(declared))
        yield

    async def step(block):
        value = Value()
        block()

    @pytest.mark.parametrize("block", [declared, explicit, discovered])
    def test_it_comes_up(block):
        asyncio.run(step(block))

    @pytest.mark.parametrize("block", [declared, explicit, discovered])
    def test_it_is_swallowed(block):
        async def main():
            try:
                await step(block)
            except hybridexec.BlockingCallError:
                pass
        asyncio.run(main())

    def test_a_task_dies_of_it():
        async def main():
            await asyncio.wait([asyncio.create_task(step(declared))])
        asyncio.run(main())

    def test_a_fixture(blocks):
        pass
"""

MARKS = ["SECRET", "token=SECRET", "mode=SECRET", "max_lwps=SECRET", "threshold=Value()", "instruments=[Value()]"]


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A suite that has secrets, in a process of its own."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    monkeypatch.setenv("SECRET", SECRET)
    pytester.makepyfile(test_it=SUITE)
    return pytester


def output(result: pytest.RunResult) -> str:
    return result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("mode", ["handoff", "raise"])
def test_what_is_said_of_tests_that_block(mode: str, workers: str, suite: pytest.Pytester) -> None:
    options = (*PLAIN, "-v", f"--hybridexec-mode={mode}", "-n", workers)
    result = suite.runpytest_inprocess(*options) if workers == "0" else suite.runpytest_subprocess(*options)
    assert result.ret == (1 if mode == "raise" else 0)
    shown = output(result)
    assert "zlib.crc32" in shown
    assert "where tests blocked their loops" in shown
    assert SECRET not in shown


def wrong(given: str) -> str:
    return f"""
        import os, pytest, test_it
        from test_it import Value
        SECRET = os.environ["SECRET"]
        @pytest.mark.hybridexec({given})
        def test():
            pass
    """


@pytest.mark.parametrize("given", MARKS)
def test_what_is_said_of_a_marker_that_is_wrong(given: str, suite: pytest.Pytester) -> None:
    suite.makepyfile(test_mark=wrong(given))
    shown = output(suite.runpytest_inprocess(*PLAIN, "--hybridexec", "test_mark.py"))
    assert "test_mark.py::test: @pytest.mark.hybridexec" in shown
    assert re.search("(allowed|there) (is|are)", shown)
    assert SECRET not in shown


def test_a_marker_that_is_wrong_fails_its_test_on_a_worker(suite: pytest.Pytester) -> None:
    """What a worker of pytest-xdist has to say when it gives up is lost."""
    suite.makepyfile(**{f"test_mark_{n}": wrong(given) for n, given in enumerate(MARKS)})
    suite.makepyfile(test_right="def test():\n    pass\n")
    names = [f"test_mark_{n}.py" for n in range(len(MARKS))]
    result = suite.runpytest_subprocess(*PLAIN, "--hybridexec", "-n", "1", *names, "test_right.py")
    result.assert_outcomes(passed=1, failed=len(MARKS))
    shown = output(result)
    assert all(f"{name}::test: @pytest.mark.hybridexec" in shown for name in names)
    assert SECRET not in shown


@pytest.mark.parametrize("name", ["MODE", "INSTRUMENTS", "TOKEN"])
def test_what_is_said_of_an_environment_that_is_wrong(
    name: str, suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"HYBRIDEXEC_{name}", SECRET)
    shown = output(suite.runpytest_inprocess(*PLAIN, "--hybridexec"))
    assert f"HYBRIDEXEC_{name}" in shown
    assert f"=<str of length {len(SECRET)}>" in shown
    assert SECRET not in shown
