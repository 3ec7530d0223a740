"""Files that cannot be read or written: /proc, the disk, the log, stderr."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import subprocess
import sys
import tempfile
from typing import Any

import hybridexec

from .scene import ENGINE, blocks, main, program, relays, right, run_blocks


async def _with_complaints() -> None:
    """Blocks that exhaust the LWPs, a callback and a task that raise: there is something to log."""

    async def bad() -> None:
        raise ValueError("bad")

    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    failed, results = await asyncio.gather(bad(), blocks(8), return_exceptions=True)
    assert isinstance(failed, ValueError)
    right(results, 8)


@program
def proc_refused() -> None:
    """Whatever is opened or listed below /proc is refused."""
    refused = []

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in ("open", "os.listdir", "os.scandir") and str(args[0]).startswith("/proc"):
            refused.append(args[0])
            raise PermissionError(errno.EACCES, "refused", args[0])

    sys.addaudithook(hook)
    right(run_blocks(), 8)
    hybridexec.run(relays())
    assert refused


@program
def proc_hidden() -> None:
    """Another file system lies over /proc."""
    script = f"mount -t tmpfs none /proc && exec {sys.executable} -m tests.faults.files with_nothing_in_proc"
    unshare = ["unshare", "--mount", *(["--map-root-user"] if os.getuid() else [])]
    if subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", "/proc"], capture_output=True).returncode:
        print("skipped: nothing can be mounted here")
        return
    subprocess.run([*unshare, "sh", "-c", script], check=True)


@program
def with_nothing_in_proc() -> None:
    """The process in which it is so."""
    assert not os.listdir("/proc")
    right(run_blocks(), 8)
    hybridexec.run(relays())


@program
def disk_full() -> None:
    """The log's file, and stdout, are on a disk that is full."""
    logging.basicConfig(filename="/dev/full", level=logging.DEBUG)
    logging.raiseExceptions = False
    for _ in range(3):
        hybridexec.run(_with_complaints(), max_lwps=4)
    hybridexec.run(relays())


@program
def no_file_may_grow() -> None:
    """Not a byte can be written to a file: a read-only disk, or a full one."""
    with tempfile.TemporaryDirectory() as folder:
        logging.basicConfig(filename=f"{folder}/log", level=logging.DEBUG)
        logging.raiseExceptions = False
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        hybridexec.run(_with_complaints(), max_lwps=4)
        hybridexec.run(relays())
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not os.path.getsize(f"{folder}/log")


class _Full(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


@program
def log_raises() -> None:
    """A handler of the log raises."""
    logging.getLogger("hybridexec").addHandler(_Full())
    for most in (2, 3, 4, 8):
        right(run_blocks(10, max_lwps=most), 10)
        hybridexec.run(relays(), max_lwps=most)


@program
def stderr_closed() -> None:
    """stderr is closed.  (libuv ends a process in which it has to close the descriptor 2, also with plain uvloop.)"""
    if ENGINE != "uvloop":
        os.close(2)
        hybridexec.run(_with_complaints(), max_lwps=4)
    sys.stderr = None
    hybridexec.run(_with_complaints(), max_lwps=4)
    logging.getLogger("hybridexec").addHandler(_Full())
    hybridexec.run(_with_complaints(), max_lwps=4)
    hybridexec.run(relays())


@program
def stderr_full() -> None:
    """stderr is full."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
    hybridexec.run(_with_complaints(), max_lwps=4)
    logging.getLogger("hybridexec").addHandler(_Full())
    hybridexec.run(_with_complaints(), max_lwps=4)
    hybridexec.run(relays())


if __name__ == "__main__":
    main()
