"""Fields of the protocol's objects that compiled code looks at: how they are laid out is the core's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import compiled

if TYPE_CHECKING or compiled is None:

    class LwpFields:
        """Slots of an LWP (``protocol/lwp.py``)."""

        __slots__ = ("handle", "slow_exit")

        handle: Any
        slow_exit: bool

    class RecordFields:
        """Fields of a record (``protocol/record.py``)."""

        due: float | None
        holder_ident: int | None

else:
    LwpFields, RecordFields = compiled.LwpFields, compiled.RecordFields
