"""A plugin of datasette's: routes that block until another request comes, or until the test answers."""

from __future__ import annotations

from typing import Any

from blocking import ask_backend, shelf
from datasette import Response, hookimpl


async def take() -> Response:
    return Response.text(shelf.get())


async def put(request: Any) -> Response:
    shelf.put(request.url_vars["word"])
    return Response.text("put")


async def backend() -> Response:
    return Response.text(ask_backend())


@hookimpl
def register_routes() -> list[tuple[str, Any]]:
    return [(r"^/-/take$", take), (r"^/-/put/(?P<word>\w+)$", put), (r"^/-/backend$", backend)]
