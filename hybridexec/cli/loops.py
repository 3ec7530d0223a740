"""asyncio's loops, and uvloop's, replaced by ours: wherever a program gets its loop from.

A program gets a loop from the default policy (``asyncio.run``, ``asyncio.new_event_loop``, ``asyncio.Runner``), from a
class given as a factory (``asyncio.SelectorEventLoop``, ``asyncio.EventLoop``, ``uvloop.Loop``) or from functions that
call one of these (``uvloop.new_event_loop``, ``uvloop.run``).  So two things are replaced: the classes' public names,
by stand-ins, and what the default policies make.  A policy that the program sets, and a loop class of its own, even
one derived from asyncio's, stay what they are.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
import types
from abc import ABCMeta
from collections.abc import Callable, Sequence
from typing import Any

from .. import detector
from ..loop.loop import HybridLoop
from ..platform.patches import Patch
from ..runner import settings

_NAMES = ("EventLoop", "ProactorEventLoop", "SelectorEventLoop")

_lock = threading.Lock()
_make: Callable[[type], HybridLoop] | None = None
_undo: list[Callable[[], object]] = []
_attached = False


def _of_environment(real: type) -> HybridLoop:
    return HybridLoop(settings(None, {}))


def replace(make: Callable[[type], HybridLoop] | None = None) -> Callable[[type], HybridLoop] | None:
    """Replace asyncio's and uvloop's loops in this process and in those that ``multiprocessing`` starts.

    Thread-safe.

    Args:
        make: makes the loops of this process from now on; it gets the class that a loop stands in for.  None: whoever
            makes them already goes on with it; if nobody does, they are as the environment says.

    Returns:
        Who has made them before, for :func:`restore`; None if they were asyncio's own.
    """
    global _make
    with _lock:
        former = _make
        _make = make or former or _of_environment
        if former is not None:
            return former
    _replace_in(asyncio, *(module for name in ("unix", "windows") if (module := _asyncio(f"{name}_events"))))
    _when_imported("uvloop", lambda module: _set(module, "Loop", stand_in(module.Loop)))
    _when_imported("multiprocessing.spawn", _take_along)
    return None


def restore(former: Callable[[type], HybridLoop] | None = None) -> None:
    """Have what :func:`replace` has replaced back.  A stand-in that somebody has kept makes the real loops again.

    Args:
        former: what that call returned.  If that is somebody (one pytest runs within another), they make the loops.
    """
    global _make
    with _lock:
        _make = former
        while _undo and former is None:
            _undo.pop()()


def _keep_detector() -> None:
    """Keep the detector from now on.

    Each first loop that takes a tool id, and each last one that gives it back, has the interpreter instrument all code
    anew, and a suite, or a program that calls ``asyncio.run`` again and again, has one loop after the other.
    """
    global _attached
    with _lock:
        if _make is not None and not _attached:
            detector.attach()
            _attached = True
            _undo.append(_give_up_detector)
            atexit.register(_give_up_detector)  # no event is for us any more while the interpreter takes itself down


def _give_up_detector() -> None:
    global _attached
    atexit.unregister(_give_up_detector)
    if _attached:
        _attached = False
        detector.detach()


def _set(owner: Any, name: str, value: Any) -> None:
    _undo.append(Patch(owner, name, value).take_off)


def stand_in(real: Any) -> Any:
    """Make a class that stands in for a class of loops.

    Called without arguments it makes a :class:`HybridLoop`.  With arguments (a selector), and for classes derived from
    it, it is the real class.  Our loops count as its instances.

    Args:
        real: the class of loops.

    Returns:
        The class to put in its place.
    """

    def new(cls: type, *args: Any, **kwargs: Any) -> Any:
        if cls is standing and _make is not None and all(value is None for value in (*args, *kwargs.values())):
            loop = _make(real)
            if not _attached:
                _keep_detector()
            return loop
        return real.__new__(cls)

    about = {"__new__": new, "__module__": real.__module__, "__qualname__": real.__qualname__, "__doc__": real.__doc__}
    # ABCMeta, since that is the metaclass with which a program may mix it: another would conflict.
    standing: Any = ABCMeta(real.__name__, (real,), about)
    standing.register(HybridLoop)
    return standing


def _asyncio(name: str) -> types.ModuleType | None:
    return sys.modules.get(f"asyncio.{name}")


def _replace_in(*modules: Any) -> None:
    standing: dict[Any, Any] = {}

    def replacement(real: Any) -> Any:
        if real not in standing:
            standing[real] = stand_in(real)
        return standing[real]

    for module in modules:
        for name in _NAMES:
            if name in vars(module):
                _set(module, name, replacement(vars(module)[name]))
        for policy in {value for value in vars(module).values() if isinstance(value, type)}:
            real = vars(policy).get("_loop_factory")
            if isinstance(real, type) and real not in standing.values():
                _set(policy, "_loop_factory", replacement(real))


class _Companion:
    """Travels with the data that prepares a new process, and replaces the loops there when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[], object], tuple[()]]:
        return replace, ()


def _take_along(spawn: Any) -> None:
    """Have the processes that ``multiprocessing`` starts anew (spawn, forkserver) replace their loops too."""
    prepare = spawn.get_preparation_data

    def get_preparation_data(name: str) -> Any:
        return {"hybridexec": _Companion(), **prepare(name)}

    _set(spawn, "get_preparation_data", get_preparation_data)


# ---------------------------------------------------------------- modules that the program may import


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module as everybody else does, and has something done when it is loaded."""

    def __init__(self, name: str, action: Callable[[Any], None]) -> None:
        self._name = name
        self._action = action
        self._finding = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find the module, once."""
        if fullname != self._name or self._finding:
            return None
        self._finding = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._finding = False
        if spec is not None and spec.loader is not None:
            self._attach(spec.loader)
        return spec

    def give_up(self) -> bool:
        """Wait for the module no more.  Returns whether it was waited for."""
        waited = self in sys.meta_path
        if waited:
            sys.meta_path.remove(self)
        return waited

    def _attach(self, loader: importlib.abc.Loader) -> None:
        load = loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            load(module)
            if self.give_up():
                self._action(module)

        loader.exec_module = exec_module  # type: ignore[method-assign]


def _when_imported(name: str, action: Callable[[Any], None]) -> None:
    """Do something with a module: now if it is imported, else as soon as it is."""
    module = sys.modules.get(name)
    if module is not None:
        action(module)
    else:
        finder = _Finder(name, action)
        sys.meta_path.insert(0, finder)
        _undo.append(finder.give_up)
