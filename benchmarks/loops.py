"""Loops to compare with: uvicorn takes the name of a function, and so do the servers here."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import hybridexec

OURS = "hybridexec:new_event_loop"

FACTORIES = {
    "ours": OURS,
    "selector": f"{__name__}:on_selector",
    "asyncio": "asyncio:SelectorEventLoop",
    "uvloop": "uvloop:new_event_loop",
    "rloop": "rloop:new_event_loop",
    "blazio": "blazio:new_event_loop",
}
"""All that are compared: a name, and what makes one."""


def installed() -> dict[str, str]:
    """Those of them that can be had here."""
    return {name: factory for name, factory in FACTORIES.items() if importlib.util.find_spec(factory.partition(":")[0])}


def factory(name: str) -> Callable[[], Any]:
    """What a name stands for."""
    module, _, function = name.partition(":")
    made: Callable[[], Any] = getattr(importlib.import_module(module), function)
    return made


def on_uvloop() -> hybridexec.HybridLoop:
    """Ours on uvloop."""
    return hybridexec.new_event_loop(engine="uvloop")


def on_selector() -> hybridexec.HybridLoop:
    """Ours on the selector engine."""
    return hybridexec.new_event_loop(engine="selector")
