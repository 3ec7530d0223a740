"""Instruments: what watches the upcalls.  The core knows none of them."""

from .report import Report, ReportRow

__all__ = ["Report", "ReportRow"]
