"""The catalogue: which C callables can block, and what their first argument says about it.

Only callables implemented in C are listed, since only a C call can block a thread: what blocks in a library written
in Python is the C call at its bottom, wherever the library is.  File objects are not listed on purpose: they are fast
nearly always and called very often, so they are left to the sampler, which learns the few sites that do block.

A third-party entry is known by its dotted name until its module is imported; names are looked up whenever a call site
is seen for the first time, so nothing hooks into the import system.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import _thread
import builtins
import enum
import functools
import os
import select
import sqlite3
import sys
import threading
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Verdict(enum.Enum):
    """Whether a call will block, as far as its first argument tells."""

    NEVER = "never"
    COMPUTES = "computes"  # without the GIL, so that it could be taken for a call that blocks
    MAYBE = "maybe"
    SURE = "sure"


class Binds(enum.Enum):
    """What a call ties to the calling thread, beyond blocking."""

    GREENLET = "greenlet"
    RLOCK = "rlock"
    SQLITE = "sqlite"
    ATTRIBUTES = "attributes"
    ALARM = "alarm"
    TIMER = "timer"
    RLOCK_SAVED = "rlock saved"
    RLOCK_RESTORED = "rlock restored"


@dataclass(frozen=True, slots=True)
class Entry:
    """One callable of the catalogue.

    Attributes:
        name: its dotted name, for reports.
        callable: the callable, kept alive so that its identity stays its own.
        will_block: what its first argument, and the number of positional arguments of the call, say.
        binds: what the call ties to the thread.
        calls_back: whether it may call Python functions of the program meanwhile.
    """

    name: str
    callable: Any
    will_block: Callable[[Any, int], Verdict]
    binds: Binds | None = None
    calls_back: bool = False


def maybe(argument: Any, count: int) -> Verdict:
    """Nothing is known beforehand."""
    return Verdict.MAYBE


def never(argument: Any, count: int) -> Verdict:
    """It does not block."""
    return Verdict.NEVER


def sure(argument: Any, count: int) -> Verdict:
    """It always blocks."""
    return Verdict.SURE


LEAST_SLEEP = 0.001
"""Seconds from which on a sleep is sure to block."""

_NUMBERS = (int, float)  # `int | float` is made anew each time


def sleep_blocks(seconds: Any, count: int) -> Verdict:
    if not isinstance(seconds, _NUMBERS) or 0 < seconds < LEAST_SLEEP:
        return Verdict.MAYBE
    return Verdict.SURE if seconds > 0 else Verdict.NEVER


def _lock(lock: Any, count: int) -> Verdict:
    if not lock.locked():
        return Verdict.NEVER
    return Verdict.SURE if count == 0 else Verdict.MAYBE


def _queue(queue: Any, count: int) -> Verdict:
    if not queue.empty():
        return Verdict.NEVER
    return Verdict.SURE if count == 0 else Verdict.MAYBE


def _ready(fd: int, event: str) -> bool:
    poll = select.poll()
    poll.register(fd, getattr(select, event))
    return bool(poll.poll(0))


def _readable(fd: Any, count: int) -> Verdict:
    try:
        return Verdict.MAYBE if _ready(fd, "POLLIN") or not os.get_blocking(fd) else Verdict.SURE
    except (OSError, TypeError, ValueError, AttributeError):
        return Verdict.MAYBE  # Windows has no poll(); else the call itself says what is wrong


def _receives(most: int) -> Callable[[Any, int], Verdict]:
    """What a receiving method of a socket will do, if it has at most so many arguments: the next one are flags."""

    def judge(sock: Any, count: int) -> Verdict:
        if sock.gettimeout() == 0 or _ready(sock.fileno(), "POLLIN"):
            return Verdict.NEVER
        return Verdict.SURE if count <= most else Verdict.MAYBE

    return judge


def _sends(sock: Any, count: int) -> Verdict:
    return Verdict.NEVER if sock.gettimeout() == 0 else Verdict.MAYBE


def _tls(connection: Any, count: int) -> Verdict:
    # One that does not block may compute for long, in a handshake.  Programs go by that nothing else runs meanwhile:
    # if anything did, it might call another method of the same connection, which OpenSSL does not stand.
    return Verdict.COMPUTES if connection.owner.gettimeout() == 0 else Verdict.MAYBE


def computes(argument: Any, count: int) -> Verdict:
    """It does not block, but computes without the GIL."""
    return Verdict.COMPUTES


_BUILT_IN: list[tuple[Any, tuple[str, ...], Callable[[Any, int], Verdict]]] = [
    (time, ("sleep",), sleep_blocks),
    (_thread.LockType, ("acquire", "acquire_lock", "__enter__"), _lock),
    (builtins, ("input",), maybe),
    (_socket.socket, ("recv", "recvfrom", "_accept"), _receives(1)),
    (_socket.socket, ("recv_into", "recvfrom_into", "recvmsg", "recvmsg_into"), _receives(2)),
    (_socket.socket, ("send", "sendall", "sendto", "sendmsg", "connect", "connect_ex"), _sends),
    (_socket, ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo"), maybe),
    (select, ("select",), maybe),
    (os, ("read",), _readable),
    (os, ("write", "waitpid", "wait", "wait3", "wait4", "waitid", "fsync", "fdatasync", "sync", "sendfile"), maybe),
    (os, ("readv", "writev", "pread", "pwrite", "lockf", "system"), maybe),
]

_CALL_BACK: list[tuple[Any, tuple[str, ...]]] = [
    # functions, row and text factories, adapters and converters, trace and progress handlers
    (sqlite3.Connection, ("execute", "executemany", "executescript", "commit", "rollback")),
    (sqlite3.Connection, ("backup", "blobopen", "close")),
    (sqlite3.Cursor, ("execute", "executemany", "executescript", "fetchall", "fetchmany", "fetchone")),
]
"""Those that can block, and can call Python functions of the program meanwhile: which then wait for the loop."""

_OF_SQLITE: list[tuple[Any, tuple[str, ...]]] = [
    (sqlite3.Connection, ("cursor", "__enter__", "create_function", "create_aggregate", "create_collation")),
    (sqlite3.Connection, ("set_authorizer", "set_progress_handler", "set_trace_callback")),
    (sqlite3.Cursor, ("close",)),
]
"""Those that do not block: seen for whose the connection is."""

_OF_THREAD: list[tuple[Any, tuple[str, ...]]] = [
    (os, ("sched_setaffinity", "setpriority", "nice")),
    (_signal, ("pthread_sigmask",)),
    (sys, ("set_coroutine_origin_tracking_depth",)),
]
"""Those that set something that the system, or the interpreter, keeps for the calling thread."""

_BY_NAME: dict[str, Callable[[Any, int], Verdict]] = {
    "_queue.SimpleQueue.get": _queue,
    "_thread._ThreadHandle.join": maybe,
    "_ssl._SSLSocket.read": _tls,
    "_ssl._SSLSocket.write": _tls,
    "_ssl._SSLSocket.do_handshake": _tls,
    "_ssl._SSLSocket.shutdown": _tls,
    "fcntl.flock": maybe,
    "fcntl.lockf": maybe,
    "_multiprocessing.SemLock.acquire": maybe,
    "select.epoll.poll": maybe,
    "select.poll.poll": maybe,
    "select.kqueue.control": maybe,
}

_DRIVERS = (
    "psycopg2._psycopg._connect",
    "psycopg2.extensions.cursor.execute",
    "psycopg2.extensions.cursor.executemany",
    "psycopg2.extensions.connection.commit",
    "psycopg2.extensions.connection.rollback",
    "MySQLdb._mysql.connect",
    "MySQLdb._mysql.connection.query",
    "MySQLdb._mysql.connection.commit",
    "pyodbc.connect",
    "pyodbc.Cursor.execute",
    "pyodbc.Connection.commit",
    "pycurl.Curl.perform",
)
"""Of other people's packages: they have adapters, and callbacks of their own."""

_COMPUTE = ("pycurl.CurlMulti.perform", "pycurl.CurlMulti.socket_action", "pycurl.Curl.pause")
"""Of other people's packages: what never blocks, and is not made to be called twice at a time."""

_C_TYPES = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType)


class Catalogue:
    """The entries by the identity of their callable.  Thread-safe: writers hold a lock, readers read dictionaries."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.entries: dict[int, Entry] = {}
        self._awaited: list[tuple[str, Callable[[Any], None], Callable[[], None] | None]] = []
        self._modules = 0  # how many there were when all names were looked up the last time
        for owner, names, will_block in _BUILT_IN:
            for name in names:
                if hasattr(owner, name):
                    self.add(getattr(owner, name), will_block)
        for owner, names in _CALL_BACK:
            for name in names:
                self.add(getattr(owner, name), maybe, Binds.SQLITE, calls_back=True)
        # It calls back a factory; and the cache of statements is functools.lru_cache.
        self.add(sqlite3.connect, maybe, calls_back=True)
        for owner, names in _OF_THREAD:
            for name in names:
                if hasattr(owner, name):
                    self.add(getattr(owner, name), maybe, Binds.ATTRIBUTES)
        for owner, names in _OF_SQLITE:
            for name in names:
                self.add(getattr(owner, name), never, Binds.SQLITE)
        for name, binds in (("alarm", Binds.ALARM), ("setitimer", Binds.TIMER)):
            if hasattr(_signal, name):
                self.add(getattr(_signal, name), never, binds)
        for name, will_block in _BY_NAME.items():
            self.add_name(name, will_block)
        for name in _DRIVERS:
            self.add_name(name, maybe, calls_back=True)
        for name in _COMPUTE:
            self.add_name(name, computes)
        for method in ("acquire", "__enter__"):
            self.add(getattr(_RLOCK, method), _rlock, Binds.RLOCK)
        self.add(_RLOCK._release_save, never, Binds.RLOCK_SAVED)
        self.add(_RLOCK._acquire_restore, _restores, Binds.RLOCK_RESTORED)
        self.add_name("greenlet.greenlet.switch", maybe, Binds.GREENLET)
        self.add_name("greenlet.greenlet.throw", maybe, Binds.GREENLET)

    def add(
        self,
        callable: Any,
        will_block: Callable[[Any, int], Verdict],
        binds: Binds | None = None,
        *,
        calls_back: bool = False,
    ) -> None:
        """Add a C callable."""
        descriptor, _ = see_through(callable, None)
        with self._lock:
            self.entries[id(descriptor)] = Entry(name_of(descriptor), descriptor, will_block, binds, calls_back)

    def add_name(
        self,
        name: str,
        will_block: Callable[[Any, int], Verdict],
        binds: Binds | None = None,
        *,
        calls_back: bool = False,
        refused: Callable[[str], None] | None = None,
    ) -> None:
        """Add a callable by its dotted name, as soon as its module is imported; or say why it cannot be."""

        def add(found: Any) -> None:
            if is_c(found):
                self.add(found, will_block, binds, calls_back=calls_back)
            elif refused is not None:
                refused("is implemented in Python, which does not block by itself")

        absent = None if refused is None else functools.partial(refused, ABSENT)
        self.when_imported(name, add, absent)

    def when_imported(self, name: str, then: Callable[[Any], None], absent: Callable[[], None] | None = None) -> None:
        """Have a function called once with what a dotted name means, as soon as its module is imported; or another
        one, if the module has no such name then."""
        with self._lock:
            self._awaited.append((name, then, absent))
            self._modules = 0

    def resolve(self) -> None:
        """Look up the names whose modules have been imported since.  It is asked for each new call site."""
        modules = len(sys.modules)
        if modules == self._modules:
            return
        self._modules = modules
        for waiting in list(self._awaited):
            name, then, absent = waiting
            found = find(name)
            if found is None and _is_loading(name):
                self._modules = 0  # it may be there the next time
            elif found is not None or (absent is not None and lacks(name)):
                with self._lock:
                    mine = waiting in self._awaited  # or another thread has found it, too
                    if mine:
                        self._awaited.remove(waiting)
                if mine and found is not None:
                    then(found)
                elif mine and absent is not None:
                    absent()

    def get(self, callable: Any) -> Entry | None:
        """The entry of a callable, if it has one."""
        return self.entries.get(id(callable))


def see_through(callable: Any, argument: Any) -> tuple[Any, Any]:
    """What a bound C method is bound from, and to: ``recv = sock.recv`` is ``socket.recv`` with ``sock``."""
    if type(callable) in (types.BuiltinFunctionType, types.MethodWrapperType):
        owner = callable.__self__
        # Not isinstance(): of an object that stands for another (a lazy one) that runs its code.
        if owner is not None and not issubclass(type(owner), types.ModuleType):
            for base in type(owner).__mro__:  # it may have come from super()
                found = vars(base).get(callable.__name__)
                if isinstance(found, types.MethodDescriptorType | types.WrapperDescriptorType):
                    return found, owner
    return callable, argument


def is_c(callable: Any) -> bool:
    """Whether a callable is implemented in C, so that its return is an event of its own."""
    kind = type(callable)  # what it says of itself may be another's, and to ask runs its code
    if issubclass(kind, _C_TYPES):
        return True
    if issubclass(kind, types.FunctionType | types.MethodType | type):
        return False
    return not isinstance(vars(kind).get("__call__"), types.FunctionType)


def name_of(callable: Any) -> str:
    """The dotted name of a callable."""
    owner = getattr(callable, "__objclass__", None)
    module = getattr(callable, "__module__", None) or getattr(owner, "__module__", None) or type(callable).__module__
    name = getattr(callable, "__qualname__", None) or getattr(callable, "__name__", type(callable).__qualname__)
    return f"{module}.{name}"


def find(name: str) -> Any:
    """What a dotted name means among the modules imported so far; None if nothing."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:cut]))
        if module is not None:
            found: Any = module
            for part in parts[cut:]:
                try:
                    found = getattr(found, part)
                except Exception:  # not there yet; or a module that loads its parts late, and cannot
                    break
            else:
                return found
    return None


ABSENT = "does not exist, though its module is imported"


def lacks(name: str) -> bool:
    """Whether no import can bring what a dotted name means: it is not in the module that has to have it."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:cut]))
        if module is not None:
            whole = cut == len(parts) - 1 or not hasattr(module, "__path__") or parts[cut] in vars(module)
            return whole and not _is_loading(name) and find(name) is None
    return False


def _is_loading(name: str) -> bool:
    """Whether a module that a dotted name may mean something in is just being imported."""
    module = sys.modules.get(name.partition(".")[0])
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


_RLOCK: Any = type(_thread.RLock())
_rlocked = getattr(_RLOCK, "locked", None)  # since 3.14


def _rlock(lock: Any, count: int) -> Verdict:
    if lock._is_owned():
        return Verdict.NEVER
    return Verdict.MAYBE if _rlocked is None else _lock(lock, count)


def _restores(lock: Any, count: int) -> Verdict:
    # Never NEVER, as its end has to be seen.  If the lock is the loop's, the step leaves that, and then waits.
    return Verdict.SURE if lock._is_owned() or (_rlocked is not None and _rlocked(lock)) else Verdict.MAYBE


catalogue = Catalogue()
"""The catalogue of the process."""
