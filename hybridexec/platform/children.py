"""Children: an LWP whose thread has started processes does not end while one of them lives.

Linux keeps in mind which *thread* has started a process: the signal that a process wants to get when its parent dies
(``prctl(PR_SET_PDEATHSIG)``, ``setpriv --pdeathsig``, bubblewrap's ``--die-with-parent``) comes when that thread ends.
On asyncio that is the loop's thread, whose end is that of the process as a rule.  So a spare that retires, or whose
loop is closed, is no LWP any more, but its thread lingers; nobody waits for it, and it takes no part in anything.  The
threads of an executor do the same (``Worker``).

Rejected: to have the home start all processes, as it calls ``signal.signal``.  It may be blocked until one of them
writes something; and what is forked without ``exec`` has to go on in the step that has forked.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable


class Worker(threading.Thread):
    """A daemon thread that does not end before the processes that it has started.

    Args:
        target: what it does.
        name: its name while it does so.
    """

    def __init__(self, target: Callable[[], None], name: str) -> None:
        super().__init__(target=target, name=name, daemon=True)
        self._done = threading.Event()
        self._processes: list[int] = []

    def start(self) -> None:
        """Start it.

        Raises:
            RuntimeError: the system has no thread to give.
        """
        try:
            super().start()
        except BaseException:
            self._done.set()
            raise

    def run(self) -> None:
        """What it does, and its end."""
        try:
            super().run()
        finally:
            self._processes = living()
            self._done.set()
        if self._processes:
            self.name += "-parent"
            await_end(self._processes)

    def await_done(self) -> None:
        """Wait until it has ended, or does nothing more than wait for its processes.  Any thread but itself."""
        self._done.wait()
        if not self._processes and self.ident is not None:
            self.join()


CHILDREN = "/proc/thread-self/children"


def told() -> bool:
    """Whether the system tells which processes a thread has started."""
    return os.path.exists(CHILDREN) and hasattr(os, "pidfd_open")


def living() -> list[int]:
    """The processes that the calling thread has started and that have not ended, each as a file descriptor.

    Where the system does not tell there are none: only on Linux is there something that depends on it.
    """
    try:
        # Unbuffered: tools for tests (blockbuster) have a buffered read raise where a loop runs.
        with open(CHILDREN, "rb", buffering=0) as file:
            numbers = [int(number) for number in file.read().split()]
    except OSError:
        return []
    found: list[int] = []
    for number in numbers:
        # Somebody has waited for it meanwhile, or there are no descriptors left; or this Python was built without them.
        with contextlib.suppress(OSError, AttributeError):
            found.append(os.pidfd_open(number))
    ended = _ended(found, 0)
    return [fd for fd in found if fd not in ended]


def await_end(processes: list[int]) -> None:
    """Wait until processes have ended."""
    while processes:
        ended = _ended(processes, None)
        processes = [fd for fd in processes if fd not in ended]


def _ended(processes: list[int], timeout: int | None) -> set[int]:
    poll = select.poll()
    for fd in processes:
        poll.register(fd, select.POLLIN)
    ended = {fd for fd, _ in poll.poll(timeout)}
    for fd in ended:
        os.close(fd)
    return ended
