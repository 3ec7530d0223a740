"""A uvicorn to be measured, in a process of its own.

    python -m benchmarks.server HANDLER LOOP NAP

LOOP is uvicorn's; with ``thread+`` before it the server runs on another than the main thread.

It listens on a port of loopback that was free, and prints two lines of JSON: ``{"port": ...}`` once it serves, and
``{"began": ..., "ended": ...}``, its requests, when it stops.  It ends when its standard input does, so that none
outlives the benchmark.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time

import uvicorn

from .apps import HANDLERS, App

GRACE = 10.0
THREAD = "thread+"


def end_with_input() -> None:
    """Stop the server when the benchmark is gone; whatever state it is in."""
    # Not by sys.stdin, whose lock an exiting interpreter may want.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)


def say(**facts: int) -> None:
    """Tell the benchmark."""
    print(json.dumps(facts), flush=True)


def main(handler: str, loop: str, nap: float) -> None:
    """Serve until told to stop."""
    threading.Thread(target=end_with_input, daemon=True).start()
    on_thread = loop.startswith(THREAD)
    # Said to be TCP's, or asyncio does not turn Nagle's algorithm off for what it accepts from it.
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        app = App(
            HANDLERS[handler](nap),
            started=lambda: say(port=listener.getsockname()[1]),
            stopped=lambda began, ended: say(began=began, ended=ended),
        )
        config = uvicorn.Config(
            app,
            loop=loop.removeprefix(THREAD),
            http="httptools",
            lifespan="on",
            log_level="warning",
            access_log=False,
            ws="none",
        )
        server = uvicorn.Server(config)
        if not on_thread:
            server.run(sockets=[listener])
        else:
            # uvicorn leaves the signals alone there.
            signal.signal(signal.SIGTERM, lambda *_: setattr(server, "should_exit", True))
            runs = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            runs.start()
            runs.join()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
