"""The models of the literature on thread libraries, and the loops that user threads share in two of them."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys

from ..config import Config
from ..observing.upcalls import Instrument, Upcall
from ..runner import new_event_loop
from .crew import Crew

MODELS = ("m:n", "1:1", "n:1")


def default_loops() -> int:
    """How many loops an executor has by default: with a GIL one can use it as well as many."""
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        return 1
    return getattr(os, "process_cpu_count", os.cpu_count)() or 1


def moving_loop(config: Config, crew: Crew) -> asyncio.AbstractEventLoop:
    """A loop of "m:n", which moves, and tells the crew when it has no spare left."""
    if len(crew.loop_threads) > 1:
        config = dataclasses.replace(config, instruments=(*config.instruments, _Exhaustion(crew)))
    loop = new_event_loop(config)
    loop._initialize_lwps(crew.initialize)
    return loop


class _Exhaustion(Instrument):
    """Tells the crew of a loop that has no spare left."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    def exhausted(self, upcall: Upcall) -> None:
        self._crew.exhausted(upcall.loop)


def plain_loop(crew: Crew) -> asyncio.AbstractEventLoop:
    """The loop of "n:1": asyncio's own."""
    return asyncio.SelectorEventLoop()
