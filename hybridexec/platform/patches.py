"""Patches: all that this package puts in the place of something of the standard library's, or of another package's.

==================================  ==========================================  =======================================
what                                while                                       what it does, and where
==================================  ==========================================  =======================================
``threading.get_ident``             this package is imported                    names a loop's home on all its threads
                                                                                (``following/identity.py``)
``asyncio.all_tasks`` (3.14)        this package is imported                    finds the tasks of a loop that moves
                                                                                (``following/tasks.py``)
``BaseProxy._callmethod``           ``multiprocessing.managers`` is imported    one connection for each call under way
``Handler._lock_acquired``          ``loguru`` is imported                      the thread's own mark, not the loop's
``_thread`` of Django's             ``django.db`` is imported                   a connection belongs to the loop's home
                                                                                (all in ``following/libraries.py``)
``signal._signal``, ``pause``,      a loop runs whose home is the main thread   ``signal.signal`` and its kin work in
``set_wakeup_fd``                                                               steps on any thread
                                                                                (``signals/main_thread.py``)
the handlers of all signals         the same                                    they are called when the home has the
                                                                                loop (``signals/shield.py``)
``asyncio.run``, ``Runner``,        a loop was made that says ``nested=True``   they run another loop in a step
``run_until_complete``,                                                         (``loop/nesting.py``)
asgiref's ``AsyncToSync.__call__``
asyncio's and uvloop's loops        ``hybridexec run``, pytest ``--hybridexec``  make ours (``cli/loops.py``)
``asyncio._set_running_loop``       ``hybridexec run --report``                 notes which loops run (``cli/ran.py``)
==================================  ==========================================  =======================================

They are put on and taken off by this file, but for the handlers of signals, which ``signal.signal`` sets.  What imports
this package for its loop has the first two; for threads that carry no loop, and loops of other classes, these do what
they did.
"""

from __future__ import annotations

from typing import Any

_put_on: list[Patch] = []


class Patch:
    """Something that stands in the place of something else.

    Args:
        owner: the module or the class.
        name: the attribute's.
        value: what stands there from now on.
    """

    def __init__(self, owner: Any, name: str, value: Any) -> None:
        self._owner = owner
        self._name = name
        self._before = vars(owner)[name] if name in vars(owner) else getattr(owner, name)
        setattr(owner, name, value)
        _put_on.append(self)

    def __repr__(self) -> str:
        return f"{getattr(self._owner, '__qualname__', self._owner.__name__)}.{self._name}"

    def take_off(self) -> None:
        """Have back what was there before.  A second call does nothing."""
        if self in _put_on:
            _put_on.remove(self)
            setattr(self._owner, self._name, self._before)


def put_on(owner: Any, **values: Any) -> list[Patch]:
    """Put values in the place of attributes of a module or a class."""
    return [Patch(owner, name, value) for name, value in values.items()]


def listing() -> list[str]:
    """What is patched in this process now."""
    return [repr(patch) for patch in _put_on]
