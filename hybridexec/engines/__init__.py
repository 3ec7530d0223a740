"""The engines: the event loops that poll and carry the transports for ours."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

from .. import _core
from ..config import PREFIX, Config
from .base import Engine
from .selector import SelectorEngine  # now: the command line puts stand-ins in the place of what it is derived from

_classes: dict[tuple[type, type], type] = {}


def asked_for(config: object, options: Mapping[str, Any]) -> Any:
    """Which engine is asked for: in code, or else by the environment.  Whether it is a name at all is not looked at."""
    if "engine" in options:
        return options["engine"]
    return config.engine if isinstance(config, Config) else os.environ.get(f"{PREFIX}ENGINE", "auto")


def engine(name: Any) -> type[Engine]:
    """The engine of a name; for a wrong one, which the configuration refuses, any.

    "auto" is the native engine where it is compiled, else the selector engine, on every thread: these have all of
    asyncio's methods and none of the limits of uvloop's poll (a protocol's method that blocks there freezes the loop).

    Raises:
        RuntimeError: uvloop is asked for, and there is none; or the compiled core.
    """
    if name == "uvloop":
        try:
            module = importlib.import_module(".uv", __name__)
        except ImportError as exc:
            raise RuntimeError(_advice()) from exc
        return module.UvEngine  # type: ignore[no-any-return]
    if name == "native" or (name == "auto" and _core.compiled is not None):
        if _core.compiled is None:
            raise RuntimeError(f'engine="native": there is no compiled core ({_core.why_not}); use engine="selector"')
        return importlib.import_module(".native", __name__).NativeEngine  # type: ignore[no-any-return]
    return SelectorEngine


def laid_over(cls: type, engine: type[Engine]) -> type:
    """A class of loops over an engine.  It bears the class's name: to a program it is that class."""
    if issubclass(cls, engine):
        return cls
    made = _classes.get((cls, engine))
    if made is None:
        about = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        made = _classes.setdefault((cls, engine), type(cls.__name__, (cls, engine), about))
    return made


def _advice() -> str:
    if sys.platform == "win32":
        return 'engine="uvloop": uvloop does not exist on Windows; use engine="selector", or "auto"'
    return 'engine="uvloop": uvloop cannot be imported; install it (pip install uvloop), or use engine="selector"'
