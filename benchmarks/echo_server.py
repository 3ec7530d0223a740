"""A server that echoes, in a process of its own.

    python -m benchmarks.echo_server FACTORY [CERTIFICATE]

It listens on a port of loopback that was free and prints ``{"port": ...}``; it ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import threading
from typing import Any

from .loops import factory


class Echo(asyncio.Protocol):
    """Sends what it gets."""

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Send it."""
        self.transport.write(data)


def end_with_input() -> None:
    """End the process when the benchmark is gone."""
    while os.read(0, 4096):
        pass
    os._exit(0)


async def main(certificate: str | None) -> None:
    """Serve."""
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, ssl=context)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    threading.Thread(target=end_with_input, daemon=True).start()
    with asyncio.Runner(loop_factory=factory(sys.argv[1])) as runner:
        runner.run(main(sys.argv[2] if len(sys.argv) > 2 else None))
