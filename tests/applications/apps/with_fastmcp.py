"""An MCP server: one tool blocks until another one is called."""

from __future__ import annotations

import os

from blocking import shelf
from fastmcp import FastMCP

server: FastMCP = FastMCP("shelf")


@server.tool
async def take() -> str:
    """Take what is put."""
    return shelf.get()


@server.tool
async def put(word: str) -> str:
    """Put a word."""
    shelf.put(word)
    return f"put {word}"


if __name__ == "__main__":
    if os.environ["TRANSPORT"] == "stdio":
        server.run(transport="stdio", show_banner=False)
    else:
        server.run(transport="http", host="127.0.0.1", port=int(os.environ["PORT"]), show_banner=False)
