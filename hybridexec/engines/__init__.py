"""The engines: the event loops that poll and carry the transports for ours."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from typing import Any

from ..base import Engine
from ..config import PREFIX, Config
from ..identity import on_main_thread
from .selector import SelectorEngine  # now: the command line puts stand-ins in the place of what it is derived from

_classes: dict[tuple[type, type], type] = {}


def asked_for(config: object, options: Mapping[str, Any]) -> Any:
    """Which engine is asked for: in code, or else by the environment.  Whether it is a name at all is not looked at."""
    if "engine" in options:
        return options["engine"]
    return config.engine if isinstance(config, Config) else os.environ.get(f"{PREFIX}ENGINE", "auto")


def engine(name: Any) -> type[Engine]:
    """The engine of a name; for a wrong one, which the configuration refuses, any.

    "auto" is uvloop where that is installed and the calling thread is not the main thread: whose loop it will be is not
    known when it is made, but a thread makes its own loop as a rule.  On the main thread uvloop sets signal handling
    up and down at each poll, and asyncio's own loop is the faster one.

    Raises:
        RuntimeError: uvloop is asked for, and there is none.
    """
    if name == "uvloop" or (name == "auto" and _off_main_thread() and _has_uvloop()):
        try:
            module = importlib.import_module(".uv", __name__)
        except ImportError as exc:
            raise RuntimeError(_advice()) from exc
        return module.UvEngine  # type: ignore[no-any-return]
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


def _off_main_thread() -> bool:
    return not on_main_thread()


def _has_uvloop() -> bool:
    if "uvloop" in sys.modules:
        return sys.modules["uvloop"] is not None  # None stands for a module that must not be imported
    return importlib.util.find_spec("uvloop") is not None


def _advice() -> str:
    if sys.platform == "win32":
        return 'engine="uvloop": uvloop does not exist on Windows; use engine="selector", or "auto"'
    return 'engine="uvloop": uvloop cannot be imported; install it (pip install uvloop), or use engine="selector"'
