"""granian by its class for programs, told how a loop is made."""

from __future__ import annotations

import asyncio
import os

from granian import Granian, loops
from granian.constants import Interfaces

import hybridexec


@loops.register("auto")
def build_loop() -> asyncio.AbstractEventLoop:
    loop = hybridexec.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


if __name__ == "__main__":
    Granian("bare:app", port=int(os.environ["PORT"]), interface=Interfaces.ASGI).serve()
