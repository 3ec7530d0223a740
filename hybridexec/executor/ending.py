"""The ends that nobody asks for: the interpreter's exit, and a fork.

**Exit.**  As with the threads of ``ThreadPoolExecutor``, work that is pending when the program ends is done to its end:
before the interpreter waits for its threads, every executor is shut down and waited for.  Its LWPs are daemon threads,
but that is no danger: they have all ended by then, or live on for their children alone.  Nothing is taken from then on.

**Fork.**  A child has none of the threads.  There the executor refuses new work and says what to do, its futures fail
with that message (instead of never being done), and ``shutdown`` has nothing to wait for.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .crew import Crew

_crews: weakref.WeakSet[Crew] = weakref.WeakSet()
exits = False  # the interpreter is about to


def watch(crew: Crew) -> None:
    """Note a crew, for its end."""
    _crews.add(crew)


def orphan(future: Any, exception: BaseException) -> None:
    """A future whose threads are in the parent fails.  Nobody is told: who has asked to be is in the parent too."""
    future._condition = threading.Condition()  # the old one may have been held by another thread
    future._waiters = []
    future._done_callbacks = []
    if not future.done():
        future._user_thread = None
        future._exception = exception
        future._state = concurrent.futures._base.FINISHED


def _at_exit() -> None:
    global exits
    exits = True
    for crew in list(_crews):
        crew.shutdown(cancel=False)
    for crew in list(_crews):
        crew.join()


def _in_child() -> None:
    for crew in list(_crews):
        crew.forked()


# As concurrent.futures does, and after it: so it is called before.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
