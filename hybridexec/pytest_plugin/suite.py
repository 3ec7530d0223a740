"""Suite: pytest's hooks, for a suite that runs on loops that move.

The plugins that run coroutines (pytest-asyncio, anyio's, ``unittest``'s own) get their loops in different ways, and so
do tests that call ``asyncio.run``.  All end at asyncio's classes and policies, or uvloop's; so these are replaced, as
``hybridexec run`` does (``cli/loops.py``), and nothing else changes: neither the tests' parameters nor the scopes of
their loops.  Loop factories that a suite gives to pytest-asyncio (``pytest_asyncio_loop_factories``) end there, too.

A loop has the options of the test in which it is made.  One that outlives its test (a module's or a session's) takes
the mode, threshold and preemption of each test that begins; the other options it keeps.

In mode "raise" a test also fails if the code under test has swallowed the exception, or a background task has died of
it.  It does so in the phase (setup, call, teardown) in which it blocked.
"""

from __future__ import annotations

import dataclasses
import os
import weakref
from collections.abc import Generator, Iterator
from typing import Any

import pytest

import hybridexec

from ..cli import loops
from ..config import Config, shown
from ..detector import calls
from ..errors import BlockingCallError
from ..loop.loop import HybridLoop
from ..reactions import reactions
from .blocks import Blocks, lines

_CHANGEABLE = frozenset({"mode", "threshold", "preempt"})
_BETWEEN = "between tests"

type Options = dict[str, Any]
type Phase = Generator[None, Any, Any]


class Suite:
    """The plugin of one pytest session.  Replaces the loops of the process when it is made.

    Args:
        mode: the mode of all loops, or None for what the environment says.
    """

    def __init__(self, mode: str | None) -> None:
        self._base: Options = {} if mode is None else {"mode": mode}
        self._options: Options = {}  # of the test that runs
        self._test = _BETWEEN
        self._made = 0  # loops, since it began
        self._refused: list[BlockingCallError] = []  # in this phase
        self._wrong: dict[str, str] = {}  # what is wrong with the markers of tests
        self._loops: weakref.WeakSet[HybridLoop] = weakref.WeakSet()
        self._blocks = Blocks(lambda: self._test)
        for module in (calls, reactions):  # a traceback is to end at the call
            vars(module)["__tracebackhide__"] = _hides
        self._former = loops.replace(self._make)  # a suite of a pytest that runs this one, or ``hybridexec run``

    # ---------------------------------------------------------------- loops

    def _make(self, real: type) -> HybridLoop:
        config = self._config(self._options)
        if config.engine == "auto" and real.__module__.partition(".")[0] == "uvloop":
            config = dataclasses.replace(config, engine="uvloop")  # the suite tries both
        loop = HybridLoop(config, instruments=(*config.instruments, self._blocks))
        loop._when_refused(self._note)
        self._loops.add(loop)
        self._made += 1
        return loop

    def _config(self, options: Options) -> Config:
        return Config.from_env(**{**self._base, **options})

    def _note(self, error: BlockingCallError) -> None:
        error.args = (f"{error}, in {self._test}",)
        self._refused.append(error)

    # ---------------------------------------------------------------- hooks: the session

    def pytest_configure(self) -> None:
        """Refuse an environment that no loop can be made with."""
        try:
            self._config({})  # its instruments, too
        except (TypeError, ValueError) as exc:
            raise pytest.UsageError(str(exc)) from None

    def pytest_unconfigure(self) -> None:
        """The loops are those again that they were before."""
        loops.restore(self._former)

    def pytest_report_header(self) -> str:
        """Say what the tests run on."""
        return f"hybridexec: {hybridexec.__version__}, mode {self._config({}).mode}"

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Refuse markers with options that are none, before any test runs; in a worker of pytest-xdist, their tests."""
        for item in items:
            try:
                self._config(_options_of(item))
            except (TypeError, ValueError) as exc:
                wrong = f"{item.nodeid}: @pytest.mark.hybridexec: {exc}"
                if not hasattr(item.config, "workerinput"):
                    raise pytest.UsageError(wrong) from None
                self._wrong[item.nodeid] = wrong  # of a worker of pytest-xdist that gives up nobody hears why

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A worker of pytest-xdist sends its rows to who shows them."""
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["hybridexec"] = self._blocks.pack()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker of pytest-xdist has ended."""
        self._blocks.add(getattr(node, "workeroutput", {}).get("hybridexec", ()))

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        """Show where tests blocked."""
        rows = self._blocks.table()
        if not rows:
            terminalreporter.write_line("hybridexec: no test has blocked its loop")
            return
        terminalreporter.section("hybridexec: where tests blocked their loops")
        for line in lines(rows, os.path.join(config.rootpath, "")):
            terminalreporter.write_line(line)

    # ---------------------------------------------------------------- hooks: a test

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Phase:
        """The test's options are in force."""
        self._test = item.nodeid
        self._options = {} if item.nodeid in self._wrong else _options_of(item)
        self._made = 0
        config = self._config(self._options)
        for loop in self._loops:
            if not loop.is_closed() and not loop.is_running():
                loop._adopt(config)
        try:
            return (yield)
        finally:
            self._test = _BETWEEN
            self._options = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Phase:
        """A test's fixtures."""
        return (yield from self._phase(item, "setup"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Phase:
        """The test itself."""
        if item.nodeid in self._wrong:
            pytest.fail(self._wrong[item.nodeid], pytrace=False)
        result = yield from self._phase(item, "call")
        if not self._made:
            self._check_fixed()
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Phase:
        """The fixtures' ends."""
        return (yield from self._phase(item, "teardown"))

    def _check_fixed(self) -> None:
        """A test that has made no loop has run on one that was there, if on any: that has what it asks for, or not."""
        fixed = {name: value for name, value in self._options.items() if name not in _CHANGEABLE}
        for loop in self._loops:
            if not loop.is_closed() and any(getattr(loop.config, name) != value for name, value in fixed.items()):
                pytest.fail(
                    f"@pytest.mark.hybridexec({', '.join(f'{name}=...' for name in fixed)}): the test has made no "
                    f"loop, and one that was there before can change {', '.join(sorted(_CHANGEABLE))} only",
                    pytrace=False,
                )

    def _phase(self, item: pytest.Item, when: str) -> Phase:
        self._refused.clear()
        try:
            result = yield
        except BaseException as exc:
            told = {id(each) for each in _all(exc)}
            untold = [str(error) for error in self._refused if id(error) not in told]
            if untold:
                item.add_report_section(when, "hybridexec", "\n".join(untold))
            raise
        if self._refused:
            pytest.fail("\n".join(map(str, self._refused)), pytrace=False)
        return result


def _hides(excinfo: pytest.ExceptionInfo[BaseException]) -> bool:
    """Whether the detector's frames are left out of a traceback."""
    return isinstance(excinfo.value, BlockingCallError)


def _options_of(item: pytest.Item) -> Options:
    """What the test's markers say, the closest one last.

    Raises:
        TypeError: one has arguments without a name.
    """
    options: Options = {}
    for mark in reversed(list(item.iter_markers("hybridexec"))):
        if mark.args:
            names = ", ".join(field.name for field in dataclasses.fields(Config))
            raise TypeError(f"{shown(mark.args[0])} has no name: allowed are {names}")
        options |= mark.kwargs
    return options


def _all(exc: BaseException) -> Iterator[BaseException]:
    """An exception, with all that it groups and that have led to it."""
    known: dict[int, BaseException] = {}
    fresh: list[BaseException | None] = [exc]
    while fresh:
        one = fresh.pop()
        if one is not None and id(one) not in known:
            known[id(one)] = one
            fresh += [one.__cause__, one.__context__]
            if isinstance(one, BaseExceptionGroup):
                fresh += one.exceptions
            yield one
