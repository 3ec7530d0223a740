"""An addon for mitmproxy: it answers in the place of the server, as soon as another request has come."""

from __future__ import annotations

from blocking import ask_backend, shelf
from mitmproxy import http


async def request(flow: http.HTTPFlow) -> None:
    verb, _, word = flow.request.path.removeprefix("/").partition("/")
    if verb == "take":
        flow.response = http.Response.make(200, shelf.get())
    elif verb == "put":
        shelf.put(word)
        flow.response = http.Response.make(200, "put")


def response(flow: http.HTTPFlow) -> None:
    if flow.request.path == "/backend":
        assert flow.response
        flow.response.text = ask_backend()
