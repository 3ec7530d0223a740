"""SQLAlchemy's asyncio extension without greenlets, on loops of ours.

It runs its synchronous part in a greenlet, which switches back to a coroutine for what is to be awaited.  A greenlet
belongs to its thread: a task in the middle of a query would be bound to its LWP, and wait for whoever blocks there.  So
in a step of ours the synchronous part is called in the step itself, and what it awaits is ``block_on``.

The functions are imported by name all over SQLAlchemy and its drivers, so each keeps its identity and gets other code
(``__code__``), which asks a ``_Bridge`` in its module.  What they did before serves everybody else: other loops, and
steps that cannot wait (``step_that_may_wait``).  A greenlet is also taken

* on an LWP that others are bound to: they would wait for its thread, and it may wait for them;
* when half of the steps that can wait do so already: greenlets have no bound.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Awaitable, Callable
from typing import Any

from ..platform.threads import os_ident
from .awaiting import LEAST_BOUND, block_on, step_that_may_wait

_GLOBAL = "_hybridexec_bridge"


class _Call:
    """A call of SQLAlchemy's synchronous part that is under way in a step."""

    __slots__ = ("awaited",)

    def __init__(self) -> None:
        self.awaited = False


class _Bridge:
    """What the functions of one module do.

    Args:
        module: the module.
        former: by its name, what each function did before.
    """

    def __init__(self, module: Any, former: dict[str, Callable[..., Any]]) -> None:
        self._module = module
        self.former = former
        self._calls: dict[int, _Call | None] = {}  # by the thread whose stack it is on

    async def spawn(self, function: Callable[..., Any], args: Any, require_await: bool, kwargs: Any) -> Any:
        """As ``greenlet_spawn``."""
        lwp = step_that_may_wait()
        if lwp is None or lwp.bound_tasks or 2 * len(lwp.carrying.awaiting) >= max(lwp.carrying.max_lwps, LEAST_BOUND):
            return await self.former["greenlet_spawn"](function, *args, _require_await=require_await, **kwargs)
        call = _Call()
        ident = os_ident()
        outer = self._calls.get(ident)
        self._calls[ident] = call
        try:
            result = function(*args, **kwargs)
        finally:
            self._put_back(ident, outer)
        if require_await and not call.awaited:
            raise self._module.exc.AwaitRequired("the operation has not awaited anything: is its driver asynchronous?")
        return result

    def await_(self, name: str, awaitable: Awaitable[Any]) -> Any:
        """As ``await_``, ``await_only`` and ``await_fallback``, which cannot be nested."""
        ident = os_ident()
        call = self._calls.get(ident)
        if call is None:
            return self.former[name](awaitable)
        call.awaited = True
        self._calls[ident] = None
        try:
            return block_on(awaitable)
        finally:
            self._calls[ident] = call

    def is_inside(self) -> bool:
        """As ``in_greenlet``."""
        return self._calls.get(os_ident()) is not None or bool(self.former["in_greenlet"]())

    def _put_back(self, ident: int, outer: _Call | None) -> None:
        if outer is None:
            self._calls.pop(ident, None)
        else:
            self._calls[ident] = outer


# Their code runs with the globals of SQLAlchemy's module.


async def _greenlet_spawn(fn, *args, _require_await=False, **kwargs):  # type: ignore[no-untyped-def]
    return await _hybridexec_bridge.spawn(fn, args, _require_await, kwargs)  # type: ignore[name-defined]  # noqa: F821


def _in_greenlet():  # type: ignore[no-untyped-def]
    return _hybridexec_bridge.is_inside()  # type: ignore[name-defined]  # noqa: F821


def _await_(awaitable):  # type: ignore[no-untyped-def]
    return _hybridexec_bridge.await_("await_", awaitable)  # type: ignore[name-defined]  # noqa: F821


def _await_only(awaitable):  # type: ignore[no-untyped-def]
    return _hybridexec_bridge.await_("await_only", awaitable)  # type: ignore[name-defined]  # noqa: F821


def _await_fallback(awaitable):  # type: ignore[no-untyped-def]
    return _hybridexec_bridge.await_("await_fallback", awaitable)  # type: ignore[name-defined]  # noqa: F821


_CODE: dict[str, Callable[..., Any]] = {
    "greenlet_spawn": _greenlet_spawn,
    "in_greenlet": _in_greenlet,
    "await_": _await_,
    "await_only": _await_only,
    "await_fallback": _await_fallback,
}


def _bridge(spawn: Any) -> None:
    """Replace the functions' code in the module that defines ``greenlet_spawn``; another one in 2.0 than in 2.1."""
    names = spawn.__globals__
    functions = {name: names[name] for name in _CODE if isinstance(names.get(name), types.FunctionType)}
    if _GLOBAL in names or {"greenlet_spawn", "in_greenlet"} - functions.keys():
        return  # done, or another version, which may do it otherwise
    former: dict[str, Callable[..., Any]] = {}
    for name, function in functions.items():
        if function.__name__ != name:
            continue  # an alias of another one of them
        copy = types.FunctionType(function.__code__, names, name, function.__defaults__, function.__closure__)
        copy.__kwdefaults__ = function.__kwdefaults__
        former[name] = copy
    names[_GLOBAL] = _Bridge(sys.modules[spawn.__module__], former)
    for name in former:
        functions[name].__code__ = _CODE[name].__code__


WHEN_IMPORTED = {"sqlalchemy.util.concurrency.greenlet_spawn": _bridge}
"""As ``following/libraries.py`` has it."""
