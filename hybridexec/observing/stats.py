"""Stats: a snapshot of what a loop has done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .upcalls import UpcallKind


@dataclass(frozen=True, slots=True)
class Stats:
    """What a loop has done so far, at one moment: all figures belong together.  Immutable, for any thread.

    Attributes:
        upcalls: how many upcalls of each kind there were.
        handoffs: how often the loop left a step that blocked or was preempted.
        awaits: how often a step has waited in :func:`~hybridexec.block_on`; these are not among the handoffs.
        claims: how often an LWP took the loop.
        wakeups: how often a sleeping LWP was woken.
        lwps_alive: how many LWPs there are, the home included.
        lwps_parked: how many of them sleep, ready to carry the loop.
        lwps_blocked: how many of them have a step that is without the loop.
        longest_block: the longest block that is over, in seconds.
        frozen_time: how long a default loop would have stood still, in seconds: the sum of all blocks.
        instrument_failures: how many calls of instruments have raised.
        instruments_dropped: the types of the instruments that are not called any more, as they raised again and again.
        core: which core runs, "c" or "python" (``HYBRIDEXEC_CORE``).
    """

    upcalls: Mapping[UpcallKind, int]
    handoffs: int
    awaits: int
    claims: int
    wakeups: int
    lwps_alive: int
    lwps_parked: int
    lwps_blocked: int
    longest_block: float
    frozen_time: float
    instrument_failures: int
    instruments_dropped: tuple[str, ...]
    core: str
