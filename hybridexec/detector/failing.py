"""Failing: what becomes of an exception in a callback of the detector.

What a callback of ``sys.monitoring`` raises takes the place of the call that the event is of.  That may be the end of
a ``with`` statement, and its lock would never be let go.  So only what is meant for the step comes up there; what has
failed in the detector itself is logged, and the call is made as if nobody had looked.
"""

from __future__ import annotations

import logging

from ..observing.log import say
from ..platform.threads import os_ident
from ..protocol.lwp import current


def failed(exc: BaseException) -> None:
    """A callback has raised, on the calling thread.

    Raises:
        BaseException: what is meant for the step, or has come from a signal handler.
    """
    lwp = current.get(os_ident())
    if lwp is not None and lwp.meant == id(exc):
        lwp.meant = 0
        raise exc
    if not isinstance(exc, Exception) or type(exc).__module__ != "builtins":
        raise exc  # nothing of ours raises such a thing: a signal handler has
    try:
        if lwp is not None and lwp.handle is not None and not lwp.region and not lwp.carrying.inside():
            lwp.carrying.hold_again(lwp)
    finally:
        say(logging.ERROR, "the detector failed at a call, and looks away", exc=exc)
