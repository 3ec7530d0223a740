"""Protocol: which thread carries a loop.  Knows nothing of asyncio."""
