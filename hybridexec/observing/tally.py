"""Tally: sums of upcalls and blocks, which any thread adds to."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .._core import compiled

if TYPE_CHECKING or compiled is None:

    class Tally[K]:
        """Sums of upcalls and blocks.

        Args:
            counts: of each kind so many, to begin with.

        Attributes:
            total: the sum of all blocks, in seconds.
            longest: the longest block, in seconds.
        """

        def __init__(self, counts: dict[K, int]) -> None:
            self._lock = threading.Lock()
            self._counts = counts
            self.total = 0.0
            self.longest = 0.0

        def count(self, kind: K) -> None:
            """There is one more of a kind."""
            with self._lock:
                self._counts[kind] += 1

        def counts(self) -> dict[K, int]:
            """How many there were of each kind."""
            with self._lock:
                return dict(self._counts)

        def add(self, seconds: float) -> None:
            """A block is over, after so many seconds."""
            with self._lock:
                self.total += seconds
                if seconds > self.longest:
                    self.longest = seconds

else:
    Tally = compiled.Tally
