"""Playwright's synchronous API, its driver and its requests, without a browser.  For ``hybridexec run``."""

from __future__ import annotations

import http.server
import threading
import time

from playwright.sync_api import sync_playwright

from hybridexec import HybridLoop


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.path.encode())

    def log_message(self, *_: object) -> None:
        pass


with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    threading.Thread(target=server.serve_forever).start()
    with sync_playwright() as playwright:
        assert isinstance(playwright._loop, HybridLoop)
        context = playwright.request.new_context(base_url=f"http://127.0.0.1:{server.server_port}")
        for number in range(3):
            time.sleep(0.03)  # the program blocks, in its greenlet
            print(context.get(f"/{number}").text())
        context.dispose()
    server.shutdown()
