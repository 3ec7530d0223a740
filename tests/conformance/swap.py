"""Swap: every name under which asyncio makes a loop makes a HybridLoop."""

from __future__ import annotations

import asyncio
from asyncio import events, unix_events
from typing import Any

import hybridexec

PLAIN_UVLOOP = "plain uvloop"
"""Stands for uvloop's own loop, which our engine of that name is held against."""


def install(engine: Any) -> None:
    """Replace asyncio's loop: its classes by name, what the policy makes, and so ``new_event_loop``.

    It has to be done before a test module is imported: some of them name the class in a class's body.

    Args:
        engine: the engine of all the loops, or ``PLAIN_UVLOOP``.
    """
    if engine == PLAIN_UVLOOP:
        import uvloop

        class PlainLoop(uvloop.Loop):
            """uvloop's, that takes the argument of asyncio's loop."""

            _default_executor = None  # a private of asyncio's, which most of the tests look at when they are over

            def __init__(self, selector: Any = None) -> None:
                super().__init__()

        _replace(PlainLoop)
        return

    class SelectorEventLoop(hybridexec.HybridLoop):
        """A HybridLoop that takes the argument of asyncio's loop: which selector is the engine's affair."""

        def __new__(cls, selector: Any = None) -> Any:
            return super().__new__(cls, engine=engine)

        def __init__(self, selector: Any = None) -> None:
            super().__init__(engine=engine)

    _replace(SelectorEventLoop)


def _replace(loop: Any) -> None:
    for module in (asyncio, unix_events):
        for name in ("SelectorEventLoop", "EventLoop"):
            if hasattr(module, name):
                setattr(module, name, loop)
    policy: Any = getattr(unix_events, "_UnixDefaultEventLoopPolicy", None)
    policy._loop_factory = loop
    made = events.new_event_loop()
    made.close()
    if not isinstance(made, loop):
        raise RuntimeError(
            f"asyncio.new_event_loop() makes a {type(made)!r}: this Python has another way to make loops"
        )
