"""scrapy: the callback of a page blocks until the spider has visited others, which it has to find first."""

from __future__ import annotations

import json
import queue
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from compatibility.service import LIMIT, Backend

from applications.running import application

PAGES = 20


class Site(ThreadingHTTPServer):
    """A page that blocks the spider, and a chain of others, which begins once the spider is blocked.

    Attributes:
        visited: the pages of the chain, as they are asked for.
        blocked: to be set when the spider is blocked.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.visited: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.blocked = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Page(BaseHTTPRequestHandler):
    """The pages of a `Site`."""

    server: Site

    def do_GET(self) -> None:
        name = self.path.removeprefix("/")
        if not name:
            links = ["blocks", "0"]
        elif name.isdigit():
            assert self.server.blocked.wait(LIMIT)
            self.server.visited.put(int(name))
            links = [str(int(name) + 1)] * (int(name) < PAGES)
        else:
            links = []
        body = f"<h1>{name}</h1>" + "".join(f'<a href="/{link}">next</a>' for link in links)
        self.send_response(200 if name != "robots.txt" else 404)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[Site]:
    """A site that is served."""
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        yield site
        site.shutdown()
        thread.join()


@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGTERM])
def test_callbacks_wait_for_other_pages(
    engine: str, backend: Backend, site: Site, number: signal.Signals | None, tmp_path: Path
) -> None:
    found = tmp_path / "found.jsonl"
    command = ["-m", "scrapy", "runspider", "spider.py", "--overwrite-output", str(found)]
    with application(*command, engine=engine, backend=backend, listens=False, SITE=site.url) as crawl:
        backend.wait_for(1)
        site.blocked.set()
        assert [site.visited.get(timeout=LIMIT) for _ in range(PAGES + 1)] == list(range(PAGES + 1))
        if number is not None:
            crawl.send(number)
            crawl.wait_until_it_says("shutting down gracefully")
        backend.answer("at last")
        crawl.stop_well(None, but=["log_count", "httperror", "memusage", "'scrapy.", "Overridden settings"])
        assert f"Closing spider ({'finished' if number is None else 'shutdown'})" in crawl.said()
    items = {item["name"]: item["answer"] for item in map(json.loads, found.read_text().splitlines())}
    # An end by a signal may come before the last page's item.
    expected = {"blocks": "at last", **{str(n): "" for n in range(PAGES + 1)}}
    assert items == expected or (number is not None and items == {k: v for k, v in expected.items() if k in items})
    assert items["blocks"] == "at last"
