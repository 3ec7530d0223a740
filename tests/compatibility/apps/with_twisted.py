"""Twisted's web server on its asyncioreactor, over our loop; its handlers block."""

from __future__ import annotations

import os
import queue
import urllib.request
from typing import Any

from twisted.internet import asyncioreactor

import hybridexec

asyncioreactor.install(hybridexec.new_event_loop())

from twisted.internet import defer, reactor, task, threads  # noqa: E402
from twisted.web.resource import Resource  # noqa: E402
from twisted.web.server import NOT_DONE_YET, Site  # noqa: E402

PORT = int(os.environ["PORT"])
words: queue.SimpleQueue[str] = queue.SimpleQueue()


class Inner(Resource):
    isLeaf = True

    def render_GET(self, request):
        return b"inner"


class Outer(Resource):
    """Asks its own service, by a blocking call."""

    isLeaf = True

    def render_GET(self, request):
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/inner") as response:
            return b"outer " + response.read()


class Put(Resource):
    isLeaf = True

    def render_GET(self, request):
        words.put(request.postpath[0].decode())
        return b"put"


class Stream(Resource):
    """A coroutine of Twisted's that blocks between two parts, and uses its timers and its threads."""

    isLeaf = True

    def render_GET(self, request):
        defer.Deferred.fromCoroutine(self.stream(request))
        return NOT_DONE_YET

    async def stream(self, request: Any) -> None:
        request.write(b"first ")
        await task.deferLater(reactor, 0.001)
        request.write(words.get().encode())
        request.write(await threads.deferToThread(lambda: b" last"))
        request.finish()


root = Resource()
for name, child in {b"inner": Inner(), b"outer": Outer(), b"put": Put(), b"stream": Stream()}.items():
    root.putChild(name, child)
reactor.listenTCP(PORT, Site(root), interface="127.0.0.1")
reactor.run()
