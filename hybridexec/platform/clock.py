"""The clock: the real one, whatever a program has put into ``time``.

Tools for tests put functions there that stand still (freezegun), and into every module that has imported the real ones,
which they know by identity.  So these are taken from a ``time`` of our own: another instance of the same built-in
module, whose functions are the same C code, and nobody else's.  Time may have stood still when this was imported.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import time
from collections.abc import Callable
from typing import Any


def _own_time() -> Any:
    spec = importlib.machinery.BuiltinImporter.find_spec("time")
    if spec is None or spec.loader is None:
        return time  # an interpreter that has it elsewhere
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


own_time = _own_time()
"""As ``time``."""

monotonic: Callable[[], float] = own_time.monotonic
