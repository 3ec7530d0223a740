"""Serve an application with uvicorn, which is told to take our loop: here, in its workers, and when it reloads."""

from __future__ import annotations

LOOP = "hybridexec:new_event_loop"

OLDEST = (0, 36)
"""The first uvicorn whose option ``--loop`` takes a name of ours."""


def run(arguments: tuple[str, ...]) -> None:
    """Do what uvicorn's command line does.

    Args:
        arguments: the application and uvicorn's options.

    Raises:
        SystemExit: 1 without a uvicorn that takes our loop; else what uvicorn ends with.
    """
    try:
        import uvicorn
        from uvicorn.main import main
    except ModuleNotFoundError as exc:
        if exc.name != "uvicorn":
            raise
        raise SystemExit("hybridexec: serve needs uvicorn: pip install uvicorn") from None
    if tuple(int(part) for part in uvicorn.__version__.split(".")[:2]) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise SystemExit(f"hybridexec: serve needs uvicorn {wanted} or later, and this is {uvicorn.__version__}")
    main(["--loop", LOOP, *arguments], prog_name="hybridexec serve")
