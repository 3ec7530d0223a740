"""Naming: what a discovered call is called.

The sampler sees where a thread stands, not what it has called.  The interpreter keeps the position of each instruction
in the source, and there stands the call: ``libc.usleep(300000)``, or the lock of a ``with`` statement.
"""

from __future__ import annotations

import linecache
import re
from types import CodeType, FrameType
from typing import Any

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z")
_WITH = re.compile(r"with\s+(.+?)(?:\s+as\s.*)?:.*\Z", re.DOTALL)  # 3.12 gives the position of the whole statement
_LONGEST = 60


def expression(code: CodeType, offset: int) -> str | None:
    """The source of the callable that an instruction calls; None if the source cannot be had."""
    positions = list(code.co_positions())
    index = offset // 2
    if index >= len(positions):
        return None
    line, end_line, column, end_column = positions[index]
    if line is None or column is None or end_column is None:
        return None
    text = linecache.getline(code.co_filename, line).encode()
    text = text[column : end_column if end_line == line else len(text)]
    source = text.decode(errors="replace").strip()
    source = _WITH.sub(r"\1", source)
    return source.split("(", 1)[0][:_LONGEST] or None


def look_up(frame: FrameType, name: str | None) -> Any:
    """What a dotted name means in a frame; None if that cannot be told without running anything."""
    if name is None or not _DOTTED.match(name):
        return None
    first, *rest = name.split(".")
    found = frame.f_locals.get(first, frame.f_globals.get(first))
    for part in rest:
        found = getattr(found, "__dict__", {}).get(part)
    return found
