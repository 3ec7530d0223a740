"""Loops of ours, on an engine that is said: uvicorn takes the name of a function."""

from __future__ import annotations

import hybridexec


def on_uvloop() -> hybridexec.HybridLoop:
    """On uvloop."""
    return hybridexec.new_event_loop(engine="uvloop")
