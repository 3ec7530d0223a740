"""A Tornado service that blocks wherever the framework calls it, and asks itself by its asynchronous client."""

from __future__ import annotations

import asyncio
import os
import signal

from blocking import call_itself, shelf
from tornado.httpclient import AsyncHTTPClient
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

import hybridexec

PORT = int(os.environ["PORT"])


class Outer(RequestHandler):
    async def get(self) -> None:
        self.write("outer " + call_itself("/inner"))


class Plain(RequestHandler):
    """A handler need not be a coroutine."""

    def prepare(self) -> None:
        self.write(call_itself("/inner") + " ")

    def get(self) -> None:
        self.write(call_itself("/inner"))


class Inner(RequestHandler):
    def get(self) -> None:
        self.write("inner")


class Put(RequestHandler):
    def get(self, word: str) -> None:
        shelf.put(word)
        self.write("put")


class Stream(RequestHandler):
    async def get(self) -> None:
        for part in "first ", shelf.get(), " last":
            self.write(part)
            await self.flush()


class Client(RequestHandler):
    """Some of what it asks is answered only when other requests have been."""

    async def get(self) -> None:
        client = AsyncHTTPClient()
        paths = "/stream", "/outer", "/put/middle"
        answers = await asyncio.gather(*(client.fetch(f"http://127.0.0.1:{PORT}{path}") for path in paths))
        self.write(", ".join(answer.body.decode() for answer in answers))


class Socket(WebSocketHandler):
    def on_message(self, message: str | bytes) -> None:
        verb, _, word = str(message).partition(" ")
        if verb == "put":
            shelf.put(word)
            self.write_message("put")
        else:
            self.write_message(shelf.get() if verb == "take" else call_itself("/inner"))


async def main() -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    handlers = [Outer, Plain, Inner, Stream, Client]
    paths = [(f"/{handler.__name__.lower()}", handler) for handler in handlers]
    server = Application([*paths, ("/put/(.*)", Put), ("/", Socket)]).listen(PORT, "127.0.0.1")
    try:
        await ended.wait()
    finally:
        server.stop()
        await server.close_all_connections()


if __name__ == "__main__":
    try:
        hybridexec.run(main())
    except KeyboardInterrupt:
        print("interrupted")
