"""CPython's own tests of asyncio, run on HybridLoop: ``python -m tests.conformance`` (docs/conformance.md)."""

PACKAGE = "test.test_asyncio"
"""Where the interpreter has its tests."""
