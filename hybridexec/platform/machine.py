"""What the operating system tells of threads.  Refinements all: where it tells nothing, the answers say so."""

from __future__ import annotations

from .clock import own_time
from .threads import os_ident


def own_clock() -> int | None:
    """The clock of the calling thread's processor time; None where there is none.

    Only a thread itself may ask: of one that has ended, POSIX leaves the answer undefined.
    """
    clock = getattr(own_time, "pthread_getcpuclockid", None)
    return None if clock is None else int(clock(os_ident()))


def processor_time(clock: int | None) -> float:
    """How long a thread has computed, in seconds; 0 if that cannot be told, or it has ended."""
    if clock is None:
        return 0.0
    try:
        return float(own_time.clock_gettime(clock))
    except OSError:
        return 0.0


def own_wait() -> float | None:
    """How long the calling thread, since its start, was ready to run and had no processor, in seconds; None if nobody
    knows.  (Linux: the second figure of ``schedstat``.)"""
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return None


def is_ready(thread: int) -> bool:
    """Whether a thread of this process runs, or would if it had a processor; False if nobody knows.

    Args:
        thread: its native identity (``threading.get_native_id()``).
    """
    try:
        with open(f"/proc/self/task/{thread}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] == b"R"
    except (OSError, IndexError):
        return False
