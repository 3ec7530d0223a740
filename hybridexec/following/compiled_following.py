"""What follows a loop, whose plain case is compiled (``_core/following.c``)."""

from __future__ import annotations

import sys
from asyncio import tasks

from .._core import compiled
from ..protocol.lwp import Region
from .following import Following
from .tasks import TASKS
from .thread_locals import IN_DICTIONARY

following_class: type[Following] = Following
"""What follows a loop here."""

if compiled is not None and not IN_DICTIONARY:  # where it is, more follows, each time
    compiled.following_know(
        tasks._current_tasks,  # type: ignore[attr-defined]
        TASKS,
        Region.AWAY,
        sys.gettrace,
        sys.getprofile,
        Following.detach,
        Following.attach,
    )

    class CompiledFollowing(Following):
        """What follows one loop."""

        detach = compiled.method(compiled.detach)
        attach = compiled.method(compiled.attach)

    following_class = CompiledFollowing
