"""Whether this interpreter, with these packages and this environment, can run loops that move: looked at and tried.

Every check says what it has found, and in which state that is; :func:`run` shows them as a table.  A loop cannot work
if one is *broken*; a feature that is *off* is done without.  People come here when something is wrong: whatever a check
raises is a finding, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import enum
import errno
import importlib.metadata
import io
import json
import os
import platform
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

import hybridexec

from .. import _core
from ..config import PREFIX, Config
from ..detector import tool
from ..following import connections, rlocks, thread_locals
from ..loop import patched
from ..observing.program import GENERATED, explained
from ..platform import children, limits
from . import table

OLDEST_UVLOOP = (0, 23)
NEWEST_PYTHON = (3, 15)
"""The newest version that the tests are run on."""

PATIENCE = 20.0
"""Seconds after which a trial that has not moved is ended."""

_DESCRIPTORS = 32
"""Fewer than this are few."""

_OF_A_TRIAL = 12
"""A trial takes no more than this."""

_CONVENTION = {0: "debuggers", 1: "coverage", 2: "profilers", 5: "optimizers"}
"""What PEP 669 keeps tool ids for."""

_PACKAGES = ("anyio", "typer", "rich", "h11", "uvicorn", "pytest", "pytest-asyncio", "greenlet", "coverage", "trio")


class State(enum.Enum):
    """What a finding means."""

    FINE = "fine"
    NOTE = "note"
    """Neither good nor bad."""
    OFF = "off"
    """A feature that is done without."""
    LOW = "low"
    """It works, but there is less than the configuration lets a loop use."""
    BROKEN = "broken"
    """No loop can work like this."""


_STYLES = {State.FINE: "green", State.NOTE: "", State.OFF: "yellow", State.LOW: "yellow", State.BROKEN: "bold red"}


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """What a check has found.

    Attributes:
        check: what was looked at.
        state: what that means.
        says: what it is.
    """

    check: str
    state: State
    says: str


def run(*, as_json: bool = False) -> None:
    """Look at everything, and show it on stdout.

    Args:
        as_json: show it for programs: ``{"ok": bool, "findings": [{"check": ..., "state": ..., "says": ...}, ...]}``.

    Raises:
        SystemExit: 1 if a loop cannot work here, or nobody can be shown whether it can.
    """
    _fill_descriptors()
    findings = list(examine())
    ok = all(finding.state is not State.BROKEN for finding in findings)
    rows = [{"check": each.check, "state": each.state.value, "says": each.says} for each in findings]
    text = json.dumps({"ok": ok, "findings": rows}, indent=1) + "\n" if as_json else _laid_out(findings)
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "it is closed")
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as exc:
        sys.stdout = None  # or the interpreter tries once more, and complains
        raise SystemExit(f"hybridexec: cannot write to stdout: {exc.strerror}") from None
    if not ok:
        raise SystemExit(1)


def _fill_descriptors() -> None:
    """Have no descriptor of a loop take the place of a standard stream that is closed: libuv would abort."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)


def _laid_out(findings: list[Finding]) -> str:
    """A table; or plain lines, where there is too little of something for that (memory, or columns)."""
    shown = Table()
    for name in ("what", "state", "found"):
        shown.add_column(name, overflow="fold")
    for finding in findings:
        state = Text(finding.state.value, style=_STYLES[finding.state])
        shown.add_row(Text(finding.check), state, Text(finding.says))
    try:
        console = table.console(sys.stdout or io.StringIO())
        if table.fits(shown, console):
            with console.capture() as capture:
                console.print(shown)
            return capture.get()
    except Exception:  # its modules are imported late, and may not be had
        pass
    return "".join(f"{each.check}: {each.state.value}: {each.says}\n" for each in findings)


def examine() -> Iterator[Finding]:
    """Look at everything.  For a thread that runs no event loop.

    Yields:
        The findings, in the order in which they are to be read.
    """
    yield from _sound("Python", _python)
    yield from _sound("sys.monitoring", _tools)
    yield from _sound("environment", _environment)
    yield from _sound("limits", _limits)
    wrong = patched.complaint()
    if wrong is not None:
        yield Finding("threads", State.BROKEN, wrong)
        return  # nothing can be tried
    yield Finding("threads", State.FINE, "are the system's")
    yield _core_found()
    yield from _sound("engines", _engines)
    yield from _sound("what follows the loop", _probes)
    yield from _sound("packages", _packages)


def _sound(check: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a check finds; if it raises, that."""
    try:
        yield from look()
    except Exception as exc:
        yield Finding(check, State.BROKEN, explained(exc))


def _core_found() -> Finding:
    """Which core runs; one that was asked for and is not there is broken."""
    if _core.compiled is not None:
        return Finding("core", State.FINE, "compiled")
    state = State.BROKEN if _core.ASKED_FOR == "c" else State.NOTE
    return Finding("core", state, f"Python: {_core.why_not}")


def _engines() -> Iterator[Finding]:
    engines = ["selector"] if _core.compiled is None else ["native", "selector"]
    uvloop = _uvloop()
    yield uvloop
    if uvloop.state is State.FINE:
        engines.append("uvloop")
    if (refusal := _no_thread()) is not None:
        yield refusal  # nobody would end a trial that does not move
        return
    if (few := limits.descriptors()).left < _OF_A_TRIAL:
        yield Finding("descriptors", State.BROKEN, f"there are too few for a loop ({few}): {few.advice}")
        return  # libuv aborts the process for want of some
    for engine in engines:
        yield _tried(f"{engine}: a declared call", engine, _Lock)
        if sys.platform != "win32":
            yield _tried(f"{engine}: a call nobody declared", engine, _Pipe)


# ---------------------------------------------------------------- what is looked at


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    cpython = sys.implementation.name == "cpython"
    tried = cpython and sys.version_info[:2] <= NEWEST_PYTHON
    says = f"{platform.python_implementation()} {version} on {sys.platform}"
    if not tried:
        says += "; tried on CPython 3.12 to " + ".".join(map(str, NEWEST_PYTHON))
    yield Finding("Python", State.FINE if tried else State.NOTE, says)
    yield Finding("hybridexec", State.FINE, hybridexec.__version__)
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        yield Finding("GIL", State.FINE, "on")
    else:
        yield Finding("GIL", State.NOTE, "off: free-threaded builds are not tried yet")


def _tools() -> Iterator[Finding]:
    """Who has the tool ids of ``sys.monitoring``."""
    taken = {number: name for number in range(6) if (name := sys.monitoring.get_tool(number)) is not None}
    free = [str(number) for number in tool.CANDIDATES if number not in taken or taken[number] == tool.NAME]
    listed = [f"{number} ({_CONVENTION.get(number, 'anybody')}): {name}" for number, name in sorted(taken.items())]
    says = f"taken: {', '.join(listed) or 'none'}; "
    if free:
        yield Finding("sys.monitoring", State.FINE, f"{says}for the detector: {', '.join(free)}")
    else:
        yield Finding("sys.monitoring", State.BROKEN, f"{says}the detector needs 3 or 4: end one of these tools")


def _environment() -> Iterator[Finding]:
    """Whether the variables that are set make a configuration."""
    given = {name: text for name, text in sorted(os.environ.items()) if name.startswith(PREFIX)}
    try:
        Config.from_env()
    except ValueError as exc:  # what it says is as much as may be shown: a wrong value may be anything
        yield Finding("environment", State.BROKEN, str(exc))
    else:
        says = ", ".join(f"{name}={text}" for name, text in given.items()) or f"no {PREFIX}* is set"
        yield Finding("environment", State.FINE, says)


def _limits() -> Iterator[Finding]:
    """Whether the system lets a loop have as many LWPs as the configuration does."""
    try:
        most = Config.from_env().max_lwps
    except ValueError:  # that is told already
        most = Config.max_lwps
    needs = f"a loop may come to have {most} LWPs (max_lwps)"
    for limit in (limits.processes(), limits.cgroup_pids()):
        yield _limit(limit, most, needs)
    stack = (threading.stack_size() or limits.stack()) * most
    yield _limit(limits.address_space(), stack, f"{needs}, with stacks of {stack >> 20} MiB in all")
    yield _limit(limits.descriptors(), _DESCRIPTORS, "a loop takes a few, and each of its connections one")


def _limit(limit: limits.Limit, wanted: int, why: str) -> Finding:
    says = str(limit).removeprefix(f"{limit.name}: ")
    if limit.left < wanted:
        return Finding(limit.name, State.LOW, f"{says}; {why}: {limit.advice}")
    return Finding(limit.name, State.FINE, says)


def _uvloop() -> Finding:
    version = _version("uvloop")
    wanted = os.environ.get(f"{PREFIX}ENGINE") == "uvloop"
    absent = State.BROKEN if wanted else State.OFF
    try:
        import uvloop  # noqa: F401
    except ImportError as exc:
        says = "not installed" if version is None else f"{version} cannot be imported: {explained(exc)}"
        return Finding("uvloop", absent, says)
    if version is None:
        return Finding("uvloop", State.FINE, "of unknown version")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers < OLDEST_UVLOOP:
        return Finding("uvloop", absent, f"{version} is too old: {'.'.join(map(str, OLDEST_UVLOOP))} is needed")
    return Finding("uvloop", State.FINE, version)


def _probes() -> Iterator[Finding]:
    """What belongs to a thread and can be made to follow the loop, or cannot."""
    shared = thread_locals.of_this_thread() is not None
    yield _feature(
        "threading.local", shared, "values follow the loop", "they stay with each thread: use hybridexec.bound()"
    )
    yield _feature("RLock", rlocks.FOLLOW, "owners follow the loop", "a task that owns one is bound to its thread")
    if sqlite3.threadsafety == connections.SERIALIZED:
        reason = "the layout of a connection is not known"
    else:
        reason = f"SQLite is not built to serialize threads (threadsafety {sqlite3.threadsafety})"
    follow = connections.fields() is not None
    yield _feature(
        "sqlite3", follow, "connections follow the loop", f"{reason}: open them with check_same_thread=False"
    )
    if sys.platform == "linux":
        yield _feature(
            "child processes",
            children.told(),
            "a thread lives as long as the processes it has started",
            "the system does not tell which these are: a parent-death signal may come early",
        )


def _feature(check: str, works: bool, yes: str, no: str) -> Finding:
    return Finding(check, State.FINE, yes) if works else Finding(check, State.OFF, no)


def _packages() -> Iterator[Finding]:
    for name in _PACKAGES:
        yield Finding(name, State.NOTE, _version(name) or "not installed")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


# ---------------------------------------------------------------- what is tried

# A program's code, as the detector sees it: it looks at no file of this package.
_PROGRAM: dict[str, Any] = {}
exec(
    compile(
        "def acquire(lock):\n    lock.acquire()\ndef read(function, *args):\n    function(*args)\n",
        f"{GENERATED}doctor>",
        "exec",
    ),
    _PROGRAM,
)


class _Lock:
    """A step waits for a lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def block(self) -> None:
        _PROGRAM["acquire"](self._lock)

    def release(self) -> None:
        self._lock.release()

    def close(self) -> None:
        """There is nothing to close."""


class _Pipe:
    """A step reads from a pipe by a function of C's."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self._read: Callable[[int, Any, int], int] = ctypes.CDLL(None).read

    def block(self) -> None:
        _PROGRAM["read"](self._read, self._reader, ctypes.create_string_buffer(1), 1)

    def release(self) -> None:
        os.write(self._writer, b"x")

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


def _no_thread() -> Finding | None:
    """What is to be said if the system has too few threads to give; None if it has enough."""
    over = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in ("sampler", "spare", "watchdog of the trial"):
            thread = threading.Thread(target=over.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        why = limits.why_no_thread()
        return Finding("threads", State.BROKEN, f"loops block as asyncio's do, for want of threads: {why}")
    finally:
        over.set()
        for thread in started:
            thread.join()
    return None


def _tried(check: str, engine: Any, obstacle: type[_Lock | _Pipe]) -> Finding:
    """A step blocks until another task of the same loop has run; if the loop does not move, a thread ends that."""
    seen: list[str] = []
    try:
        blocked = obstacle()
    except OSError as exc:
        return Finding(check, State.BROKEN, explained(exc))

    def release(who: str) -> None:
        if not seen:
            seen.append(who)
            blocked.release()

    async def main() -> None:
        asyncio.get_running_loop().call_soon(release, "the loop")
        blocked.block()

    watchdog = threading.Timer(PATIENCE, release, ["nobody"])
    watchdog.daemon = True
    coroutine = main()
    try:
        watchdog.start()
        hybridexec.run(coroutine, config=Config(engine=engine))
    except Exception as exc:
        says = explained(exc)
        if isinstance(exc, RuntimeError):
            says = says.removeprefix(f"{type(exc).__name__}: ")  # a sentence, as a rule
        return Finding(check, State.BROKEN, says)
    finally:
        coroutine.close()
        watchdog.cancel()
        with contextlib.suppress(OSError):
            blocked.close()
    if seen == ["the loop"]:
        return Finding(check, State.FINE, "the loop has moved while a step blocked")
    return Finding(check, State.BROKEN, f"the loop has not moved within {PATIENCE:.0f} s")
