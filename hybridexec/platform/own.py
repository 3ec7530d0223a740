"""Which code is this package's own."""

from __future__ import annotations

import os
from types import CodeType

DIRECTORY = os.path.dirname(os.path.dirname(__file__)) + os.sep


def own(code: CodeType) -> bool:
    """Whether code is this package's own."""
    return code.co_filename.startswith(DIRECTORY)
