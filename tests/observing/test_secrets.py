"""No value of the program in a log or a message: secrets are fed through what speaks, and looked for.

What is allowed: names (of tasks, threads, functions, classes, modules, tests, tools, options), types, lengths, places,
and the numbers of the configuration.  Each place of the package that logs or warns is in :data:`SCENES` or in
:data:`ARGUED`.

Not looked at, because it is not ours:

* What asyncio's own code says on our loops ("Exception in callback ...", debug mode), in asyncio's words and log.
* What a program raises and nobody catches: the interpreter, asyncio or pytest shows it, as they would without us.
* What the command line's parser says of its arguments, to whoever has just typed them; and a script that is not there,
  which is named as by ``python``.
"""

from __future__ import annotations

import _thread
import ast
import asyncio
import functools
import json
import logging
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import environment, play

import hybridexec
from hybridexec import Config, HybridExecutor
from hybridexec.cli import doctor
from hybridexec.detector.sampler import Sampler
from hybridexec.observing import log
from hybridexec.observing.log import raised
from hybridexec.observing.upcalls import PATIENCE

SECRET = "hunter2"


class Value:
    """Gives itself away wherever it is shown."""

    def __repr__(self) -> str:
        return SECRET

    __str__ = __repr__


class Lock(_thread.RLock):  # type: ignore[misc]
    """A lock that does."""

    __repr__ = Value.__repr__


class Error(Exception):
    """An exception that does, by its text."""

    def __init__(self) -> None:
        super().__init__(SECRET)


def will_block() -> None:
    def judge(argument: object) -> bool:
        raise Error

    adler32 = zlib.adler32
    hybridexec.register_blocking(adler32, will_block=judge)

    async def main() -> None:
        adler32(SECRET.encode())

    hybridexec.run(main())


def refused_call() -> None:
    crc32 = zlib.crc32
    hybridexec.register_blocking(crc32, will_block=lambda argument: True)

    async def main() -> None:
        crc32(SECRET.encode())

    hybridexec.run(main(), mode="raise")


def exhaustion() -> None:
    """Every LWP waits for a lock that shows itself, until the log has said so."""
    lock = Lock()
    said = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "LWPs are blocked" in record.getMessage():
                said.set()

    def holds() -> None:
        with lock:
            held.set()
            said.wait()

    held = threading.Event()
    holder = threading.Thread(target=holds)
    holder.start()
    held.wait()

    async def waits() -> None:
        lock.acquire()
        lock.release()

    async def main() -> None:
        await asyncio.gather(waits(), waits())

    handler = Handler()
    logging.getLogger("hybridexec").addHandler(handler)
    try:
        hybridexec.run(main(), max_lwps=2)
    finally:
        logging.getLogger("hybridexec").removeHandler(handler)
        holder.join()
    assert said.is_set()


def initializer() -> None:
    def fails(value: object) -> None:
        raise Error

    with HybridExecutor(initializer=fails, initargs=(Value(),)) as executor:
        executor.submit(len, SECRET).result()


def instrument() -> None:
    class Fails(hybridexec.Instrument):
        __repr__ = Value.__repr__

        def blocked(self, upcall: hybridexec.Upcall) -> None:
            raise Error

    async def main() -> None:
        for _ in range(PATIENCE):
            with hybridexec.blocking():
                pass

    hybridexec.run(main(), instruments=[Fails()])


class Ends(SystemExit):
    """A program's own way to end."""

    def __str__(self) -> str:
        return SECRET

    __repr__ = __str__


def callback(*, bound: bool) -> None:
    """One that an executor's loop outlives."""

    async def main() -> None:
        def ends() -> None:
            raise Ends

        loop = asyncio.get_running_loop()
        gone_on = loop.create_future()
        loop.call_soon(ends)
        loop.call_soon(gone_on.set_result, None)
        await gone_on

    with HybridExecutor() as executor:
        executor.spawn(main, bound=bound).result()


def sampler() -> None:
    """It fails once, and finds an undeclared block all the same."""
    real, failed = Sampler._look, threading.Event()

    def look(*args: Any) -> bool:
        if not failed.is_set():
            failed.set()
            raise Error
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampler, "_look", look)
        assert play(failed.wait, mode="observe").result


SCENES: list[tuple[Callable[[], None], set[str]]] = [
    (will_block, {"reactions/regions.py _failed"}),
    (refused_call, set()),
    (exhaustion, {"reactions/reporting.py exhausted"}),
    (initializer, {"executor/crew.py initialize"}),
    (instrument, {"observing/upcalls.py _failed"}),
    (functools.partial(callback, bound=False), {"executor/loop_thread.py _main"}),
    (functools.partial(callback, bound=True), {"executor/bound.py drive"}),
    (sampler, {"detector/sampler.py _failed"}),
]
"""Scenes, and the places in the package that speak in them.  (At level DEBUG, each loop does so.)"""

_RAISED = "an exception, by raised(), which is tested by itself"
_LISTED = "the listing of LWPs that exhaustion logs, too"
_OF_NAMES = "names of types, tasks, threads, tools or functions alone"
_NOTHING = "a sentence, and numbers of the system's"

ARGUED = {
    "detector/failing.py failed": _RAISED,
    "executor/bound.py _main": _RAISED,
    "loop/loop.py _fail": _RAISED,
    "loop/leaving.py _tell": _LISTED,
    "reactions/reporting.py closing": _LISTED,
    "detector/sampler.py _tick_once": _OF_NAMES,
    "following/following.py __init__": _OF_NAMES,
    "reactions/affinity.py may_run": _OF_NAMES,
    "reactions/regions.py _refused": _OF_NAMES,
    "signals/home_side.py passes_on": f"{_OF_NAMES}; {_LISTED}",
    "detector/sampler.py _start": _NOTHING,
    "engines/uv.py add_signal_handler": _NOTHING,
    "following/following.py attach": _NOTHING,
    "following/thread_locals.py usable": _NOTHING,
    "observing/log.py is_over": _NOTHING,
    "reactions/greenlets.py begin": _NOTHING,
    "reactions/reporting.py refused": _NOTHING,
    "reactions/reporting.py repaired": _NOTHING,
    "reactions/reporting.py forked": "a sentence of ours that says what cannot be done in a forked child",
    "engines/uv.py close": "the warnings of uvloop's own close, passed on",
    "loop/turns.py _run_debug": "asyncio's debug mode, in asyncio's words",
    "observing/log.py say": "what all the others go through",
}


def speaks() -> Iterator[tuple[str, str]]:
    """The places in the package that log or warn: the file and the function."""
    package = Path(hybridexec.__file__).parent

    def within(node: ast.AST, function: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            inner = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
            name = ast.unparse(child) if isinstance(child, ast.Name | ast.Attribute) else ""
            if name in ("say", "warnings.warn") or (".logger." in f".{name}" and not name.endswith("isEnabledFor")):
                yield function
            yield from within(child, inner)

    for path in package.rglob("*.py"):
        file = path.relative_to(package).as_posix()
        yield from ((file, function) for function in within(ast.parse(path.read_text()), ""))


def test_each_place_that_speaks_is_tried_or_argued_for() -> None:
    tried = {place for _, places in SCENES for place in places} | {"loop/loop.py _announce"}
    assert not tried & ARGUED.keys()
    assert {" ".join(place) for place in speaks()} == tried | ARGUED.keys()


def make(what: Any, name: str, value: Any) -> object:
    """Give one option."""
    return what(**{name: value})


def submit(**options: Any) -> object:
    """Give something to an executor."""
    with HybridExecutor() as executor:
        return executor.spawn(options.pop("fn"), **options)


WRONG: dict[str, Callable[[Any], object]] = {
    **{f"Config({name})": functools.partial(make, Config, name) for name in Config.__dataclass_fields__},
    "an unknown option": lambda value: make(Config.from_env, "nonsense", value),
    "config": lambda value: hybridexec.new_event_loop(value),
    "register_blocking": lambda value: hybridexec.register_blocking(value),
    "will_block": lambda value: hybridexec.register_blocking(zlib.crc32, will_block=value),
    "submit": lambda value: submit(fn=value),
    "bound": lambda value: submit(fn=len, bound=value),
    "name": lambda value: submit(fn=len, name=[value]),
    **{
        f"HybridExecutor({name})": functools.partial(make, HybridExecutor, name)
        for name in ("loops", "model", "max_pending", "initializer", "initargs", "nonsense")
    },
}


@pytest.mark.parametrize(("scene", "places"), SCENES, ids=lambda one: getattr(one, "__name__", ""))
def test_what_is_logged(scene: Callable[[], None], places: set[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(1)
    try:
        scene()
    except Exception as exc:
        assert SECRET not in str(exc)
    ours = [record for record in caplog.records if record.name == "hybridexec"]
    package = Path(hybridexec.__file__).parent
    spoke = {f"{Path(record.pathname).relative_to(package).as_posix()} {record.funcName}" for record in ours}
    assert spoke - {"loop/loop.py _announce"} == places
    text = "\n".join(map(logging.Formatter().format, ours))  # with tracebacks, if there were any
    assert SECRET not in text


def test_what_is_told_of_an_exception() -> None:
    """Its type, its places, and those of what has led to it."""

    def fails() -> None:
        try:
            raise OSError(28, SECRET, SECRET)
        except OSError as exc:
            raise Error from exc

    try:
        fails()
    except Error as exc:
        exc.add_note(SECRET)
        told = raised(exc)
    first = fails.__code__.co_firstlineno
    here = f"  {__file__}:{{}}:test_what_is_told_of_an_exception"
    assert told.splitlines() == [
        "Error",
        here.format(first + 7),
        f"  {__file__}:{first + 4}:{fails.__qualname__}",
        "after OSError (ENOSPC)",
        f"  {__file__}:{first + 2}:{fails.__qualname__}",
    ]


def test_an_exception_that_has_led_to_itself_is_told_once() -> None:
    one, other = Error(), KeyError(SECRET)
    one.__cause__, other.__cause__ = other, one
    assert raised(one) == "Error\nafter KeyError"


def test_a_handler_of_the_log_that_raises(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Fails(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise Error

    monkeypatch.setattr(log, "_reported", False)
    monkeypatch.setattr(log.logger, "handlers", [Fails()])
    log.say(logging.ERROR, "anything")
    said = capsys.readouterr().err
    assert said.startswith("hybridexec: a handler of the log has raised: Error\n")
    assert f"{__file__}:" in said
    assert SECRET not in said


@pytest.mark.parametrize("value", [SECRET, SECRET.encode(), [SECRET], Value()], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused(name: str, value: Any) -> None:
    if name == "Config(instruments)" and isinstance(value, str | bytes):
        value = [value]
    with pytest.raises((TypeError, ValueError)) as caught:
        WRONG[name](value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", [*Config.__dataclass_fields__, "token"])
def test_what_is_in_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"HYBRIDEXEC_{name.upper()}", SECRET)
    with pytest.raises(hybridexec.WrongEnvironmentError) as caught:
        hybridexec.new_event_loop()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("name", [*Config.__dataclass_fields__, "token"])
def test_what_doctor_finds_in_the_environment(
    name: str, as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_engines", lambda: iter(()))  # what is tried there is tried below
    monkeypatch.setenv(f"HYBRIDEXEC_{name.upper()}", SECRET)
    monkeypatch.setenv("PASSWORD", SECRET)
    with pytest.raises(SystemExit) as caught:
        doctor.run(as_json=as_json)
    assert caught.value.code == 1
    shown = capsys.readouterr().out
    if as_json:
        assert not json.loads(shown)["ok"]
    assert f"HYBRIDEXEC_{name.upper()}" in shown
    assert f"=<str of length {len(SECRET)}>" in shown
    assert SECRET not in shown


RAISES = """
import os

class Secret(Exception):
    pass

raise {kind}(os.environ["PASSWORD"])
"""


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
@pytest.mark.parametrize("kind", ["ImportError", "ValueError", "Secret"])
@pytest.mark.parametrize("module", ["uvloop", "instruments"])
def test_what_doctor_says_of_a_module_that_raises(
    module: str, kind: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    """A program's: an instrument's, or one that has the name of a package."""
    tmp_path.joinpath(f"{module}.py").write_text(RAISES.format(kind=kind))
    found = run_doctor(tmp_path, *options, HYBRIDEXEC_INSTRUMENTS="instruments:One", PASSWORD=SECRET)
    assert kind in found
    assert SECRET not in found
    if module == "uvloop":
        assert f"{module}.py:7:" in found


def run_doctor(path: Path, *options: str, **variables: str) -> str:
    """What ``hybridexec doctor`` shows where the modules of a folder come first."""
    script = "import sys; sys.path.insert(0, sys.argv.pop(1)); from hybridexec.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), "doctor", *options],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    assert not done.stderr
    return done.stdout


def test_no_line_that_logs_formats_by_repr() -> None:
    """A name may be quoted (%r of a task's); whatever else is given by its repr is a value."""
    allowed = {"regions.py": 1, "affinity.py": 1}  # the dotted name that was registered; the name of a task
    for path in Path(hybridexec.__file__).parent.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        texts = [
            argument.value
            for call in calls
            if ast.unparse(call.func) == "say" or ast.unparse(call.func).startswith("logger.")
            for argument in call.args
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        ]
        assert sum("%r" in text for text in texts) <= allowed.get(path.name, 0), path


def test_no_message_is_made_by_repr() -> None:
    allowed = {
        "cli/script.py": 1,  # the path of the script
        "config.py": 3,  # the name of an instrument, numbers, and what is allowed
        "detector/tool.py": 1,  # names of tools
        "platform/patches.py": 1,  # the name of what is patched
        "reactions/regions.py": 1,  # the dotted name that was registered
        "reactions/reporting.py": 2,  # the name of a task
    }
    package = Path(hybridexec.__file__).parent
    for path in package.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        shown = sum(isinstance(node, ast.FormattedValue) and node.conversion == ord("r") for node in nodes)
        calls = sum(isinstance(node, ast.Call) and ast.unparse(node.func) == "repr" for node in nodes)
        assert shown + calls == allowed.get(path.relative_to(package).as_posix(), 0), path
