"""The pytest plugin, in a pytest of its own (pytester)."""

from __future__ import annotations

import re
import sys
from typing import Any, get_args, get_type_hints

import pytest
from helpers import ROOT, environment

import hybridexec
import pytest_hybridexec
from hybridexec import _core

pytest_plugins = "pytester"

INI = """
    [pytest]
    asyncio_default_fixture_loop_scope = function
    addopts = --strict-markers -p no:cacheprovider
    filterwarnings = error
"""

MOVES = """
    import asyncio, os, threading, time, unittest
    import pytest, pytest_asyncio

    def moves():
        "Blocks until another callback of the same loop has run."
        lock = threading.Lock()
        lock.acquire()
        asyncio.get_running_loop().call_soon(lock.release)
        assert lock.acquire(timeout=50)
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A directory for a suite, whose pytest finds this package."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    pytester.makefile(".ini", pytest=INI)
    return pytester


def run(suite: pytest.Pytester, source: str, *arguments: str, **outcomes: int) -> pytest.RunResult:
    """Run a suite of one file, and see how many tests pass, fail, ..."""
    suite.makepyfile(test_it=MOVES + source)
    result = suite.runpytest_inprocess(*arguments)
    result.assert_outcomes(**outcomes)
    return result


def says(result: pytest.RunResult, pattern: str) -> bool:
    """Whether a line of the output matches."""
    return any(re.search(pattern, line) for line in result.outlines)


EVERYWHERE = """
    @pytest.mark.asyncio
    async def test_pytest_asyncio():
        moves()

    @pytest_asyncio.fixture(scope="session", loop_scope="session")
    async def fixture():
        moves()
        yield
        moves()

    def test_a_fixture_of_a_plain_test(fixture):
        pass

    @pytest.mark.asyncio(loop_scope="session")
    async def test_a_session_s_loop(fixture):
        moves()

    @pytest.mark.anyio
    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_anyio(anyio_backend):
        moves()

    class TestCase(unittest.IsolatedAsyncioTestCase):
        async def asyncSetUp(self):
            moves()

        async def test_unittest(self):
            moves()

    def test_a_loop_of_its_own():
        async def main():
            moves()
        asyncio.run(main())
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
"""


def test_whatever_runs_the_tests_their_loops_move(suite: pytest.Pytester) -> None:
    result = run(suite, EVERYWHERE, "--hybridexec", passed=6)
    assert says(result, rf"^hybridexec: {re.escape(hybridexec.__version__)}, mode handoff$")


def test_the_loops_of_a_suite_that_chooses_them_move(suite: pytest.Pytester) -> None:
    """By the hook of pytest-asyncio, and by the parameter of anyio's plugin."""
    pytest.importorskip("uvloop")
    suite.makeconftest(
        """
        import asyncio, pytest, uvloop

        def pytest_asyncio_loop_factories(config, item):
            return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

        @pytest.fixture(params=[("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"])
        def anyio_backend(request):
            return request.param
        """
    )
    source = """
    def check(request):
        name = request.node.name
        engine = os.environ.get("HYBRIDEXEC_ENGINE") or ("uvloop" if "[uvloop]" in name else "DEFAULT")
        assert asyncio.get_running_loop().engine_name == engine

    @pytest.mark.asyncio
    async def test_pytest_asyncio(request):
        check(request)
        moves()

    @pytest.mark.anyio
    async def test_anyio(request):
        check(request)
        moves()
    """.replace("DEFAULT", "selector" if _core.compiled is None else "native")
    result = run(suite, source, "--hybridexec", "-v", passed=4)
    if hasattr(pytest, "HIDDEN_PARAM"):
        assert says(result, r"test_pytest_asyncio\[uvloop\] PASSED")


def test_the_engine_of_the_environment(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("uvloop")
    monkeypatch.setenv("HYBRIDEXEC_ENGINE", "uvloop")
    source = """
    @pytest.mark.asyncio
    async def test_it():
        moves()
        assert asyncio.get_running_loop().engine_name == "uvloop"
    """
    run(suite, source, "--hybridexec", passed=1)


NESTED = """
    pytest_plugins = "pytester"

    def runs(pytester, *arguments):
        pytester.makeini("[pytest]\\naddopts = -p no:cacheprovider -p no:asyncio")
        pytester.makepyfile(test_inner='''
            import asyncio, hybridexec
            async def main():
                return asyncio.get_running_loop()
            def test_it():
                loop = asyncio.run(main())
                assert isinstance(loop, hybridexec.HybridLoop) and loop.config.mode == "observe"
        ''')
        return pytester.runpytest_inprocess(*arguments).parseoutcomes()

    async def move():
        moves()

    def test_a_pytest_that_has_the_option(pytester):
        assert runs(pytester, "--hybridexec-mode=observe") == {"passed": 1}
        asyncio.run(move())

    def test_a_pytest_that_has_not(pytester):
        assert runs(pytester) == {"failed": 1}  # its loop is this suite's, in the mode of this suite
        asyncio.run(move())
"""


def test_a_suite_that_runs_pytest_within_itself_keeps_its_loops(suite: pytest.Pytester) -> None:
    run(suite, NESTED, "--hybridexec", passed=2)


def test_without_the_option_nothing_is_imported_or_replaced(suite: pytest.Pytester) -> None:
    suite.makeconftest(
        """
        import sys

        def pytest_unconfigure(config):
            assert "pytest_hybridexec" in sys.modules
            assert not [name for name in sys.modules if name.partition(".")[0] == "hybridexec"]
        """
    )
    source = """
    @pytest.mark.hybridexec(mode="raise")
    @pytest.mark.asyncio
    async def test_it():
        time.sleep(0.001)
        assert "hybrid" not in type(asyncio.get_running_loop()).__name__.lower()
    """
    suite.makepyfile(test_it=MOVES + source)
    result = suite.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    assert result.ret == 0
    assert not says(result, "^hybridexec")


# ---------------------------------------------------------------- mode raise


def test_a_test_that_blocks_fails_by_name_call_and_line(suite: pytest.Pytester) -> None:
    source = """
    def helper():
        time.sleep(0.001)  # HERE

    @pytest.mark.asyncio
    async def test_blocks():
        helper()

    class TestCase(unittest.IsolatedAsyncioTestCase):
        async def test_unittest(self):
            helper()

    @pytest.mark.anyio
    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_anyio(anyio_backend):
        helper()

    @pytest.mark.asyncio
    async def test_does_not():
        await asyncio.sleep(0.001)
        await asyncio.to_thread(helper)
    """
    result = run(suite, source, "--hybridexec-mode=raise", failed=3, passed=1)
    line = 1 + next(
        n for n, text in enumerate(suite.path.joinpath("test_it.py").read_text().split("\n")) if "HERE" in text
    )
    for name in ("test_blocks", "TestCase::test_unittest", "test_anyio[asyncio]"):
        message = rf"time\.sleep blocks the event loop at \S+test_it\.py:{line}:helper \(declared\), in test_it\.py::"
        assert says(result, rf"^E .*BlockingCallError: {message}{re.escape(name)}$")
    assert not says(result, r"reactions\.py")  # the traceback ends at the call
    assert says(result, rf"^ +3 +- +- +time\.sleep +test_it\.py:{line}:helper +test_it\.py::test_blocks$")


def test_a_test_fails_also_if_nobody_lets_the_exception_through(suite: pytest.Pytester) -> None:
    source = """
    @pytest.mark.asyncio
    async def test_swallows():
        try:
            time.sleep(0.001)
        except Exception:
            pass

    @pytest.mark.asyncio
    async def test_background():
        async def dies():
            time.sleep(0.001)
        task = asyncio.create_task(dies())
        await asyncio.wait([task])
        task.exception()

    @pytest.mark.asyncio
    async def test_fails_of_something_else():
        try:
            time.sleep(0.001)
        except Exception:
            pass
        assert not "of something else"

    @pytest_asyncio.fixture
    async def fixture():
        time.sleep(0.001)

    def test_fixture(fixture):
        pass
    """
    result = run(suite, source, "--hybridexec-mode=raise", failed=3, errors=1)
    message = r"time\.sleep blocks the event loop at \S+test_it\.py:\d+:{} \(declared\), in test_it\.py::{}$"
    for function, test in (
        ("test_swallows", "test_swallows"),
        ("test_background.<locals>.dies", "test_background"),
        ("test_fails_of_something_else", "test_fails_of_something_else"),
        ("fixture", "test_fixture"),
    ):
        assert says(result, message.format(re.escape(function), test)), test
    assert says(result, "assert not 'of something else'")


# ---------------------------------------------------------------- the marker


def test_a_marker_has_options_for_a_test(suite: pytest.Pytester) -> None:
    source = """
    pytestmark = pytest.mark.hybridexec(max_lwps=9)

    def config():
        return asyncio.get_running_loop().config

    @pytest.mark.hybridexec(mode="observe", threshold=0.5)
    class TestClass:
        @pytest.mark.asyncio
        async def test_in_class(self):
            assert (config().mode, config().threshold, config().max_lwps) == ("observe", 0.5, 9)
            time.sleep(0.001)

        @pytest.mark.hybridexec(mode="handoff")
        @pytest.mark.asyncio
        async def test_closest_wins(self):
            assert (config().mode, config().threshold, config().max_lwps) == ("handoff", 0.5, 9)
            moves()

    @pytest.mark.asyncio
    async def test_none_of_its_own():
        assert (config().mode, config().threshold, config().max_lwps) == ("raise", 0.005, 9)
        with pytest.raises(Exception, match="blocks"):
            time.sleep(0.001)
    """
    run(suite, source, "--hybridexec-mode=raise", passed=2, failed=1)


def test_a_marker_s_mode_holds_for_a_loop_that_was_there_before(suite: pytest.Pytester) -> None:
    source = """
    pytestmark = pytest.mark.asyncio(loop_scope="module")
    loops = set()

    async def test_first():
        loops.add(asyncio.get_running_loop())

    @pytest.mark.hybridexec(mode="handoff")
    async def test_may_block():
        loops.add(asyncio.get_running_loop())
        moves()

    async def test_may_not():
        loops.add(asyncio.get_running_loop())
        assert len(loops) == 1
        time.sleep(0.001)

    @pytest.mark.hybridexec(max_lwps=3)
    async def test_too_late():
        pass
    """
    result = run(suite, source, "--hybridexec-mode=raise", passed=2, failed=2)
    assert says(result, r"^E .*BlockingCallError: .* in test_it\.py::test_may_not$")
    assert says(result, r"hybridexec\(max_lwps=\.\.\.\): the test has made no loop, .* mode, preempt, threshold only")


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("treshold=1", r"treshold=1: there is no such option; allowed are mode, threshold,"),
        ("threshold=100", r"threshold=100: allowed are seconds from 0\.001 to 60"),
        ("mode='move'", r"mode=<str of length 4>: allowed are 'handoff', 'observe', 'raise'"),
        ("'raise'", r"<str of length 5> has no name: allowed are mode, threshold,"),
    ],
)
def test_a_marker_that_is_wrong_is_a_usage_error(suite: pytest.Pytester, marker: str, message: str) -> None:
    suite.makepyfile(test_it=f"import pytest\n@pytest.mark.hybridexec({marker})\ndef test_it(): pass\n")
    result = suite.runpytest_inprocess("--hybridexec")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert re.search(rf"ERROR: test_it\.py::test_it: @pytest\.mark\.hybridexec: {message}", str(result.stderr))


def test_options_and_an_environment_that_are_wrong(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    result = suite.runpytest_inprocess("--hybridexec-mode=move")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "handoff" in str(result.stderr)
    monkeypatch.setenv("HYBRIDEXEC_THRESHOLD", "soon")
    result = suite.runpytest_inprocess("--hybridexec")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "HYBRIDEXEC_THRESHOLD=<str of length 4>: allowed is a number of seconds" in str(result.stderr)


def test_the_modes_are_the_configuration_s() -> None:
    assert get_args(get_type_hints(hybridexec.Config)["mode"]) == pytest_hybridexec.MODES


# ---------------------------------------------------------------- the summary

BLOCKS = """
    @pytest.mark.parametrize("number", range(4))
    @pytest.mark.asyncio
    async def test_sleeps(number):
        time.sleep(0.001)

    @pytest.mark.asyncio
    async def test_moves():
        await asyncio.sleep(0)
"""


@pytest.mark.parametrize("workers", [(), ("-n2",)])
def test_the_summary_says_where_tests_blocked(suite: pytest.Pytester, workers: tuple[str, ...]) -> None:
    if workers:
        pytest.importorskip("xdist")
    result = run(suite, BLOCKS, "--hybridexec-mode=observe", *workers, passed=5)
    assert says(result, "=== hybridexec: where tests blocked their loops ===")
    assert says(result, r"^count +total +longest +call +site +first test$")
    (row,) = (line for line in result.outlines if "time.sleep" in line)
    found = re.match(
        r" +4 +([\d.]+) ms +([\d.]+) ms +time\.sleep +test_it\.py:\d+:test_sleeps +test_it\.py::test_sl", row
    )
    assert found, row
    total, longest = map(float, found.groups())
    assert total > longest >= 1


def test_the_summary_of_a_suite_that_does_not_block(suite: pytest.Pytester) -> None:
    result = run(suite, BLOCKS, "--hybridexec", "-k", "moves", passed=1, deselected=4)
    assert says(result, "^hybridexec: no test has blocked its loop$")


# ---------------------------------------------------------------- the document


def test_what_the_document_says(suite: pytest.Pytester) -> None:
    """Its command, and its examples: anyio's parameter, pytest-asyncio's hook, unittest, the marker."""
    document = (ROOT / "docs" / "testing.md").read_text()
    anyio, factories, case, marker = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    (command,) = re.findall(r"```console\n(.*?)```", document, re.DOTALL)
    suite.makeconftest(anyio + factories)
    suite.makepyfile(
        test_anyio="""
        import asyncio, pytest

        @pytest.mark.anyio
        async def test_anyio(anyio_backend):
            assert ("Hybrid" in type(asyncio.get_running_loop()).__name__) is bool(anyio_backend[1])

        @pytest.mark.asyncio(loop_factories=["hybridexec"])
        async def test_asyncio():
            assert "Hybrid" in type(asyncio.get_running_loop()).__name__
        """,
        test_case=case
        + """
    async def test_it(self):
        import asyncio, sys
        if sys.version_info >= (3, 13):
            assert asyncio.get_running_loop().config.mode == "raise"
""",
    )
    result = suite.runpytest_inprocess()
    result.assert_outcomes(passed=4)
    suite.makepyfile(test_anyio="", test_case="import pytest\n" + marker)
    result = suite.runpytest_inprocess(*command.split()[1:], "-o", "asyncio_mode=auto")
    result.assert_outcomes(passed=4)  # two by each loop of the hook


# ---------------------------------------------------------------- within one process


def test_afterwards_the_loops_are_asyncio_s_again(pytester: pytest.Pytester) -> None:
    """A suite that runs suites, and a program that goes on."""
    pytester.makepyfile(
        test_it="""
        import asyncio

        def test_it():
            asyncio.run(asyncio.sleep(0))
            loop = asyncio.new_event_loop()
            assert type(loop).__name__ == "HybridLoop"
            loop.close()
        """,
        program="""
        import asyncio, sys
        import pytest

        before = asyncio.SelectorEventLoop, asyncio.new_event_loop().close()
        for _ in range(2):
            assert pytest.main(["--hybridexec", "-q", "-p", "no:cacheprovider", "test_it.py"]) == 0
            sys.modules.pop("test_it")
            assert not sys.monitoring.get_tool(3)
        import uvloop
        assert before[0] is asyncio.SelectorEventLoop
        for loop in (asyncio.new_event_loop(), uvloop.new_event_loop()):
            assert type(loop).__name__ != "HybridLoop"
            loop.close()
        """,
    )
    pytest.importorskip("uvloop")
    result: Any = pytester.run(sys.executable, "-W", "ignore", "program.py")
    assert result.ret == 0
