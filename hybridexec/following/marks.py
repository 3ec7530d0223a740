"""Marks: values of thread-locals that belong to a step, and not to the loop.

trio says in ``threading.local`` values that its code runs on this thread, each time that it runs some: by
``sniffio.thread_local.name``, and by the task and the runner of its own.  A loop's coroutines share thread-locals
(``thread_locals.py``); so while a step blocks in which a trio runs that is a guest on the loop, or which has called
``trio.run``, asyncio's tasks would be told that they are trio's.  Such a step takes its marks along when it leaves.

Only the thread that has the values can change them, and it may be the sampler that has the loop leave a step.  So it is
noted whose step has left, and whoever takes the loop next, before all else, takes the marks out of the values and keeps
them for that one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from .._core.fields import MarksFields
from ..protocol.lwp import LWP

SNIFFIO = "sniffio"
_TRIO = "trio._core._run"  # which imports them, or, before trio 0.28, makes them

type _Marks = list[tuple[Any, str, Any]]  # the thread-local, the name, the value


class Marks(MarksFields):
    """Those of the steps of one loop.  All methods are called under the mutex."""

    leaver: LWP | None
    """Whose step has left the loop, and its marks where they are; None where sniffio is not imported."""
    kept: dict[LWP, _Marks]

    def __init__(self) -> None:
        self.leaver = None
        self.kept = {}

    def taken(self, lwp: LWP) -> None:
        """The calling thread, an LWP, has taken the loop since; it has the loop's thread-locals."""
        leaver, self.leaver = self.leaver, None
        module: Any = sys.modules.get(SNIFFIO)
        if leaver is None or leaver is lwp or not hasattr(module, "thread_local"):  # it is being imported
            return
        if getattr(module.thread_local, "name", None) is None:
            return
        self.kept[leaver] = [(local, name, vars(local).pop(name)) for local, name in _places() if name in vars(local)]

    def returned(self, lwp: LWP) -> None:
        """The calling thread's step has the loop again."""
        for local, name, value in self.kept.pop(lwp, ()):
            setattr(local, name, value)


def _places() -> Iterator[tuple[Any, str]]:
    """Where marks of the calling thread are, if it has any."""
    yield sys.modules[SNIFFIO].thread_local, "name"
    context = getattr(sys.modules.get(_TRIO), "GLOBAL_RUN_CONTEXT", None)
    if context is not None:
        yield context, "task"
        if not getattr(getattr(context, "runner", None), "is_guest", False):  # a guest's is the loop's
            yield context, "runner"
