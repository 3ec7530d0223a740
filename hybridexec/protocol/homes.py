"""Homes: a run begins and ends.  The thread that calls ``run_forever`` is the home of the loop meanwhile."""

from __future__ import annotations

from typing import Any

from ..platform.threads import os_ident, os_thread
from .lwp import LWP
from .record import FORKED_ADVICE, LoopState
from .repair import Repair


class Homes(Repair):
    """A record whose home comes and goes."""

    def __init__(self, **options: Any) -> None:
        self._former: LWP | None = None  # the home of the last run
        self._absent: dict[int, LWP] = {}  # homes of earlier runs that user threads are bound to, by their thread
        super().__init__(**options)

    def begin(self) -> LWP:
        """The calling thread becomes the home and holds the loop.

        Raises:
            RuntimeError: the process was forked, and the loop's LWPs are in the parent.
        """
        ident = os_ident()
        with self.mutex:
            if self.state is LoopState.FORKED:
                raise RuntimeError(FORKED_ADVICE)
            # A home that comes back is the same LWP: user threads may be bound to it.
            home = self._former
            if home is None or home.ident != ident:
                if home is not None and home.bound_tasks:
                    self._absent[home.ident] = home
                home = self._absent.pop(ident, None)
                if home is None:
                    home = LWP(self, os_thread().name)
                    self.host.equip(home)
                self._former = home
            home.adopt()
            home.handle = None
            home.slow_exit = home.lost_loop = False
            self.lwps.add(home)
            self.home = home
            self.unheld = LoopState.FREE
            self.batch_unfinished = False
            self.host.luggage.detach(home, with_step=False)  # what its thread has is the loop's
            self.take(home)
        return home

    def finish(self, home: LWP) -> None:
        """The home, which holds the loop, stops it.  Steps that are still blocked wait for the next run, or close."""
        try:
            with self.mutex:
                if self.state is not LoopState.FORKED and self.home is not None:
                    self.lwps.discard(home)
                    home.handle = None
                    self.unheld = self.state = LoopState.STOPPED
                    self.holder = self.holder_ident = self.home = self.last = None
        finally:
            home.release()

    def forget_homes(self) -> None:
        """The loop is closed: no home comes back."""
        self._former = None
        self._absent.clear()
