"""Fork: what is left of the loops in a child process.

``os.fork`` copies the calling thread alone.  The LWPs and the sampler are not in the child, and their locks are there
in whatever state they were: so everything is set up anew, and the parent's loops refuse to go on in the child, with a
message that says what to do.  A new loop in the child works.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

from ..detector import tool, trap
from ..detector.sampler import sampler
from ..platform.threads import os_ident
from ..protocol import lwp

_loops: weakref.WeakSet[Any] = weakref.WeakSet()


def watch(loop: Any) -> None:
    """Note a loop, for the case of a fork."""
    _loops.add(loop)


def _before() -> None:
    for loop in list(_loops):
        loop._send_queued()  # else parent and child would


def _in_child() -> None:
    tool.forked()
    trap.reset()
    sampler.forked()
    survivor = lwp.current.get(os_ident())
    if survivor is not None:
        survivor.slow_exit = True  # its step is the last one that it runs
    lwp.current.clear()
    for loop in list(_loops):
        loop._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_in_child)
