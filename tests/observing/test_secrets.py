"""No value of the program in a log or a message: secrets are fed through what speaks, and looked for."""

from __future__ import annotations

import _thread
import ast
import asyncio
import functools
import logging
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hybridexec
from hybridexec import Config, HybridExecutor

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
        with hybridexec.blocking():
            pass

    hybridexec.run(main(), instruments=[Fails()])


SCENES: list[Callable[[], None]] = [will_block, refused_call, exhaustion, initializer, instrument]


def make(what: Any, name: str, value: Any) -> object:
    """Give one option."""
    return what(**{name: value})


WRONG: dict[str, Callable[[Any], object]] = {
    **{f"Config({name})": functools.partial(make, Config, name) for name in Config.__dataclass_fields__},
    "an unknown option": lambda value: make(Config.from_env, "nonsense", value),
    "config": lambda value: hybridexec.new_event_loop(value),
    "register_blocking": lambda value: hybridexec.register_blocking(value),
    "will_block": lambda value: hybridexec.register_blocking(zlib.crc32, will_block=value),
    **{
        f"HybridExecutor({name})": functools.partial(make, HybridExecutor, name)
        for name in ("loops", "model", "max_pending", "initializer", "initargs", "nonsense")
    },
}


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_what_is_logged(scene: Callable[[], None], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(1)
    try:
        scene()
    except Exception as exc:
        assert SECRET not in str(exc)
    ours = [record.getMessage() for record in caplog.records if record.name == "hybridexec"]
    assert ours
    assert SECRET not in "\n".join(ours)


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
