"""A crawler of asyncio tasks that fetch with the blocking ``urllib``, and need no executor for it.

    hybridexec run examples/crawler.py

It serves itself a small site whose pages take 50 ms each, and follows the links from the first one.  By ``python
examples/crawler.py`` the same program fetches one page at a time.
"""

from __future__ import annotations

import asyncio
import http.server
import re
import threading
import time
import urllib.request
from urllib.parse import urljoin, urlsplit

PAGES = 60


class Site(http.server.BaseHTTPRequestHandler):
    """Page n links to the pages 2n + 1 and 2n + 2."""

    def do_GET(self) -> None:
        """Answer slowly."""
        time.sleep(0.05)
        number = int(self.path.strip("/") or 0)
        links = [f'<a href="/{child}">' for child in (2 * number + 1, 2 * number + 2) if child < PAGES]
        self.send_response(200)
        self.end_headers()
        self.wfile.write("".join(links).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Server(http.server.ThreadingHTTPServer):
    """A server that many may call at a time: of the five that are let wait by default, the sixth tries again later."""

    request_queue_size = 128


async def crawl(url: str, seen: dict[str, int]) -> None:
    """Fetch a page, and crawl what it links to and nobody has seen yet."""
    seen[url] = 0
    with urllib.request.urlopen(url, timeout=30) as response:
        text = response.read().decode()
    seen[url] = len(text)
    links = {urljoin(url, link) for link in re.findall(r'href="([^"]*)"', text)}
    async with asyncio.TaskGroup() as group:
        for link in links - seen.keys():
            group.create_task(crawl(link, seen), name=urlsplit(link).path)


async def main() -> None:
    """Crawl the site, and say how long it took."""
    server = Server(("127.0.0.1", 0), Site)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    began = time.monotonic()
    seen: dict[str, int] = {}
    await crawl(f"http://127.0.0.1:{server.server_port}/", seen)
    print(f"{len(seen)} pages in {time.monotonic() - began:.2f} s")
    server.shutdown()
    server.server_close()


asyncio.run(main())
