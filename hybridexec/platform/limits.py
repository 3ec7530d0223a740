"""Limits: what the system lets this process have of threads, descriptors and memory, and how much of it is in use.

They are read when something was refused, and by ``hybridexec doctor``; nothing here is for the hot path.  What the
system does not tell is None.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

if sys.platform != "win32":
    import resource

_CGROUPS = "/sys/fs/cgroup"
_MINE = "/proc/self/cgroup"
_EXEMPT = 1 << 21 | 1 << 24
"""CAP_SYS_ADMIN and CAP_SYS_RESOURCE: who has one of them may have any number of processes."""


class Limit(NamedTuple):
    """How much there may be of something, and how much there is.

    Attributes:
        name: what people know the limit by.
        used: how much is in use; None if the system does not tell.
        most: how much there may be; None if there is no limit, or the system does not tell.
        advice: what to do about it.
    """

    name: str
    used: int | None
    most: int | None
    advice: str

    @property
    def left(self) -> float:
        """How much may still be had; infinity if nobody knows."""
        return float("inf") if self.used is None or self.most is None else self.most - self.used

    def __str__(self) -> str:
        used = "?" if self.used is None else self.used
        return f"{self.name}: {used} of {'unlimited' if self.most is None else self.most}"


def processes() -> Limit:
    """RLIMIT_NPROC: threads of this user in all its processes."""
    most = _soft("RLIMIT_NPROC")
    if most is not None and _may_exceed():
        most = None
    return Limit("RLIMIT_NPROC", _threads_of_user(), most, "raise it with `ulimit -u`, or LimitNPROC= of systemd")


def cgroup_pids() -> Limit:
    """What containers are limited by, the pids controller of cgroups: threads in the tightest group of this process."""
    tightest = Limit("pids.max", None, None, "")
    for folder in _pids_folders():
        used, most = _number(f"{folder}/pids.current"), _number(f"{folder}/pids.max")
        limit = Limit("pids.max", used, most, "")
        if limit.left < tightest.left or tightest.used is None:
            tightest = limit
    return tightest._replace(advice="raise the container's limit: --pids-limit of docker, TasksMax= of systemd")


def address_space() -> Limit:
    """RLIMIT_AS: bytes of this process's address space; a thread's stack takes 8 MiB of it as a rule."""
    pages = _number("/proc/self/statm")
    used = None if pages is None else pages * os.sysconf("SC_PAGE_SIZE")
    return Limit("RLIMIT_AS", used, _soft("RLIMIT_AS"), "raise it with `ulimit -v`, or lower `ulimit -s`")


def stack() -> int:
    """RLIMIT_STACK: bytes that the stack of a new thread takes of the address space, if nobody has said otherwise."""
    return _soft("RLIMIT_STACK") or 8 << 20


def descriptors() -> Limit:
    """RLIMIT_NOFILE: file descriptors of this process."""
    try:
        used: int | None = len(os.listdir("/proc/self/fd")) - 1  # less the one that this takes
    except OSError:
        used = None
    return Limit("RLIMIT_NOFILE", used, _soft("RLIMIT_NOFILE"), "raise it with `ulimit -n`, or LimitNOFILE= of systemd")


def why_no_thread() -> str:
    """Why the system may have refused a thread, and what to do about it, for the log."""
    limits = [limit for limit in (processes(), cgroup_pids(), address_space()) if limit.most is not None]
    known = "; ".join(map(str, limits)) or "no limit of threads or memory is known"
    stack = 16 << 20  # a thread needs memory, too
    spent = [limit for limit in limits if limit.left <= (stack if limit.name == "RLIMIT_AS" else 0)]
    if not spent:
        return f"the system is short of threads or memory ({known})"
    return f"the likely cause is {', '.join(limit.name for limit in spent)} ({known}): {spent[0].advice}"


# ---------------------------------------------------------------- what the system tells


def _soft(name: str) -> int | None:
    """A resource limit; None if there is none."""
    if sys.platform == "win32" or not hasattr(resource, name):
        return None
    soft = resource.getrlimit(getattr(resource, name))[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _may_exceed() -> bool:
    """Whether RLIMIT_NPROC does not hold for this process (Linux: the system's own root, and who has a capability)."""
    if sys.platform != "linux":
        return False
    capabilities = _status("self").get("CapEff", "0")
    return os.getuid() == 0 or bool(int(capabilities, 16) & _EXEMPT)


def _threads_of_user() -> int | None:
    """How many threads the user of this process has."""
    if sys.platform != "linux":
        return None
    me, count = str(os.getuid()), 0
    try:
        processes = [name for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return None
    for name in processes:
        status = _status(name)
        if status.get("Uid", "").split()[:1] == [me]:
            count += int(status.get("Threads", "1"))
    return count or None


def _status(process: str) -> dict[str, str]:
    """What ``/proc`` tells of a process; nothing if it has ended."""
    lines = (line.partition(":") for line in _lines(f"/proc/{process}/status"))
    return {name: text.strip() for name, _, text in lines}


def _lines(path: str) -> list[str]:
    """The lines of a file; none if it cannot be read."""
    try:
        with open(path, "rb") as file:  # UTF-8 is there without an import, which may fail by now
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def _pids_folders() -> Iterator[str]:
    """Where the pids controller of this process's groups is seen, from its own group to the outermost."""
    lines = [line.split(":", 2) for line in _lines(_MINE)]
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and "pids" not in controllers.split(","):
            continue
        root = f"{_CGROUPS}/pids" if controllers else _CGROUPS
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for length in range(len(parts), -1, -1):  # a container may see the host's path, and its own group at the root
            yield "/".join([root, *parts[:length]])


def _number(path: str) -> int | None:
    """The first word of a file; None if it is no number ("max"), or cannot be read."""
    try:
        return int(_lines(path)[0].split(maxsplit=1)[0])
    except (ValueError, IndexError):
        return None
