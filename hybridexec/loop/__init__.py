"""Loop: asyncio's side of an event loop that moves."""
