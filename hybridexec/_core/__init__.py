"""The core: the hot part of the loop, compiled.

It is optional.  Where there was no compiler when the package was installed, or where ``HYBRIDEXEC_CORE=python`` is set,
the Python code beside it runs instead, which means the same.  Which one runs is chosen once, on import; ``doctor``, the
loop's first line in the log and :meth:`~hybridexec.HybridLoop.stats` say which.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

VARIABLE = "HYBRIDEXEC_CORE"

ASKED_FOR = os.environ.get(VARIABLE, "")
"""What the environment asks for; whether it is a name at all is seen by the configuration."""

NAMES = ("c", "python")


def _load() -> tuple[Any, str]:
    """The compiled core, and an empty reason; or None, and why."""
    if ASKED_FOR == "python":
        return None, f"{VARIABLE}=python is set"
    try:
        return importlib.import_module(f"{__name__}.compiled"), ""
    except ModuleNotFoundError:
        return None, "it was not compiled when the package was installed: there was no C compiler that works"
    except Exception as exc:
        return None, f"it cannot be loaded ({type(exc).__name__}: {exc})"


compiled, why_not = _load()
name = "python" if compiled is None else "c"

_complained = False


def complaint() -> str | None:
    """What the log is to say of a compiled core that is asked for and is not there; once in the process."""
    global _complained
    if _complained or compiled is not None or ASKED_FOR != "c":
        return None
    _complained = True
    return f"{VARIABLE}=c is set, and the Python core runs: {why_not}"
