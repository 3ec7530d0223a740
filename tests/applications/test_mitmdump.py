"""mitmdump: an addon's hook blocks until another request passes."""

from __future__ import annotations

import signal
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from compatibility.service import LIMIT, Backend, begin

from applications.running import application, script


class Echo(BaseHTTPRequestHandler):
    """Answers with what is sent."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def origin() -> Iterator[str]:
    """The server behind the proxy, by its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def through(port: int, authority: Path) -> Callable[..., bytes]:
    """What asks through the proxy, each time on a connection of its own."""
    address = f"http://127.0.0.1:{port}"
    handlers = [
        urllib.request.ProxyHandler({"http": address, "https": address}),
        urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=authority)),
    ]

    def ask(url: str, data: bytes | None = None) -> bytes:
        with urllib.request.build_opener(*handlers).open(url, data, LIMIT) as response:
            body: bytes = response.read()
            return body

    return ask


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_hooks_wait_for_other_requests(
    engine: str, backend: Backend, origin: str, number: signal.Signals, tmp_path: Path
) -> None:
    settings = [f"confdir={tmp_path}", "listen_host=127.0.0.1", "connection_strategy=lazy", "upstream_cert=false"]
    options = [word for setting in settings for word in ("--set", setting)]
    command = [script("mitmdump"), "--listen-port", "{port}", "-s", "addon.py", *options]
    with application(*command, engine=engine, backend=backend) as service:
        ask = through(service.port, tmp_path / "mitmproxy-ca-cert.pem")
        large = bytes(range(256)) * 1200
        assert ask(f"{origin}/large", large) == large
        for scheme in ("http", "https"):  # the hook answers: nobody is asked for this name
            taken = begin(*[lambda scheme=scheme: ask(f"{scheme}://blocks.invalid/take")] * 4)
            words = [f"{scheme}{n}".encode() for n in range(4)]
            assert [ask(f"{scheme}://blocks.invalid/put/{word.decode()}") for word in words] == [b"put"] * 4
            assert sorted(taken()) == words
        asked = begin(*[lambda: ask(f"{origin}/backend")] * 4)
        backend.wait_for(4)
        assert ask(f"{origin}/large", large) == large
        backend.answer("at last")
        assert asked() == [b"at last"] * 4
        service.stop_well(number)
