"""Outcome: what has become of a test."""

from __future__ import annotations

import enum


class Outcome(enum.Enum):
    """What has become of a test."""

    PASSED = "passed"
    SKIPPED = "skipped"
    FAILED = "failed"
    HUNG = "hung"  # or its process has died
