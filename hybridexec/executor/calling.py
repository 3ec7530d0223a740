"""The one call that this package makes on behalf of a program.

The detector leaves this package's own code alone, but not this file: a C callable given to an executor
(``submit(time.sleep, 1)``) is called here, and blocks here.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable, Mapping
from typing import Any


def call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Call a callable of the program.  Its blocking calls count, its own call included."""
    return fn(*args, **kwargs)


def unwrapped(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The same call without C code around it that would hide from the detector what is called.

    ``asyncio.to_thread(fn)`` submits ``functools.partial(context.run, fn)``.
    """
    while type(fn) is functools.partial:
        args, kwargs, fn = (*fn.args, *args), {**fn.keywords, **kwargs}, fn.func
    if args and getattr(fn, "__name__", None) == "run":
        context = getattr(fn, "__self__", None)
        if type(context) is contextvars.Context and args[0] is not call:
            inner, args, kwargs = unwrapped(args[0], args[1:], kwargs)
            return fn, (call, inner, args, kwargs), {}
    return fn, args, kwargs
