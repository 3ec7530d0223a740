"""Carrying with the hot moves of the compiled core (``_core/moves.c``), which mean what their Python text does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._core import compiled
from .carrying import Carrying
from .lwp import STEP_ENDED, LwpState
from .record import HOME_BOUND, RETURN_BOUND, LoopState
from .waking import Action, left_behind


def compiled_carrying(clock: Callable[[], float] | None = None) -> type[Carrying]:
    """The class of who carries a loop, with the core's moves.

    Args:
        clock: the explorer's clock; None: the system's.
    """
    moves = compiled.Moves(
        LwpState, LoopState, Action.BREAK_POLL, STEP_ENDED, left_behind, RETURN_BOUND, HOME_BOUND, clock
    )

    class CompiledCarrying(Carrying):
        """Who carries one loop."""

        leave = compiled.method(moves.leave)
        rejoin = compiled.method(moves.rejoin)
        if clock is None:  # else its threads are not the system's
            _new_mutex = compiled.Mutex

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.moves = moves if clock is None else None  # else each is to be called as any method

    return CompiledCarrying


carrying_class: type[Carrying] = Carrying if compiled is None else compiled_carrying()
"""Who carries a loop here."""
