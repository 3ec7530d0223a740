"""Extra: what the command line needs beyond the package itself."""

from __future__ import annotations

EXTRA = ("h11", "rich", "typer")


def lacking(exc: ModuleNotFoundError) -> BaseException:
    """What to raise for a missing module: a message, if the extra would have brought it."""
    if exc.name not in EXTRA:
        return exc
    return SystemExit(f"hybridexec: the command line needs {exc.name}: pip install 'hybridexec[cli]'")
