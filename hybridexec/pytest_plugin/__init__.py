"""The pytest plugin: a suite's asyncio tests on loops that move, and where they block.  Imported only if asked for."""

from __future__ import annotations

from .suite import Suite

__all__ = ["Suite"]
