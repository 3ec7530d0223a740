"""What the probes do.  ``hook.py`` loads this as if it were a file of the package."""

from __future__ import annotations

import _thread
import collections
import threading
from typing import Any

_get_ident = _thread.get_ident


class Probes:
    """All probes of a process, and what they do.

    Attributes:
        sites: the statements, by number.
        passes: how often each was passed, by which kind of thread, while that is counted.
        raised: what has raised, if anything has.
    """

    def __init__(self) -> None:
        self.sites: list[Any] = []
        self.passes: collections.Counter[tuple[int, str]] = collections.Counter()
        self.raised = False
        self._counts = False
        self._target = -1
        self._kind = ""
        self._left = 0
        self._error: type[BaseException] = MemoryError
        self._home = _get_ident()

    def count(self) -> None:
        """Count from now on; the calling thread is the home."""
        self._home, self._counts = _get_ident(), True

    def arm(self, site: int, kind: str, at: int, error: type[BaseException]) -> None:
        """Raise once.

        Args:
            site: the number of the statement.
            kind: on which kind of thread.
            at: at its how-manieth pass.
            error: what to raise.
        """
        self._home = _get_ident()
        self._target, self._kind, self._left, self._error = site, kind, at, error

    def disarm(self) -> None:
        """Neither count nor raise any longer."""
        self._counts, self._target = False, -1

    def passed(self, site: int) -> None:
        """A thread is about to execute a statement."""
        if site != self._target and not self._counts:
            return
        kind = self._kind_of_thread()
        if self._counts:
            self.passes[site, kind] += 1
        elif kind == self._kind and not self.raised:
            self._left -= 1
            if self._left <= 0:
                self.raised = True
                raise self._error("injected")

    def _kind_of_thread(self) -> str:
        ident = _get_ident()
        if ident == self._home:
            return "home"
        thread = threading._active.get(ident)  # type: ignore[attr-defined]
        name = "" if thread is None else thread.name
        return "spare" if name.startswith("hybridexec-lwp") else "sampler" if "sampler" in name else "other"
