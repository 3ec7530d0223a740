"""The exceptions of this package."""

from __future__ import annotations


class BlockingCallError(RuntimeError):
    """Raised in a blocking step when the loop's mode is "raise": at the call, or behind it if it was found late.

    The message names the call site, the callable and how it was noticed.
    """


class ExecutorFullError(RuntimeError):
    """An executor has ``max_pending`` user threads that are not done, and the caller's event loop must not wait."""


class DetectorUnavailableError(RuntimeError):
    """The detector cannot work in this process: no ``sys.monitoring``, or none of its tool ids is free."""


class WrongEnvironmentError(SystemExit, ValueError):
    """A variable ``HYBRIDEXEC_*`` has a value that is not allowed, or names no field of :class:`Config`.

    No line of the program is wrong, so a traceback would help nobody: if nothing handles it, the process ends with the
    message alone, on stderr.
    """
