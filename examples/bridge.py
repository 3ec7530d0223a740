"""The synchronous face of an asynchronous SDK, called in a handler: ``block_on``, while the loop serves others.

    hybridexec run examples/bridge.py

On asyncio's own loop the first call raises a RuntimeError: there is nothing that synchronous code in a handler could
call to wait for a coroutine.
"""

import asyncio

import hybridexec


class AsyncClient:
    """An SDK as it is written today: asynchronous."""

    async def greet(self, name: str) -> str:
        """Ask a server that takes its time."""
        await asyncio.sleep(0.2)
        return f"hello {name}"


class Client:
    """Its synchronous face."""

    def __init__(self) -> None:
        self._client = AsyncClient()

    def greet(self, name: str) -> str:
        """As ``AsyncClient.greet``."""
        return hybridexec.block_on(self._client.greet(name), timeout=5)


async def handler(name: str) -> str:
    """A coroutine that has synchronous code call the SDK."""
    greet = Client().greet
    return greet(name)


async def main() -> None:
    """Serve ten at a time: that takes as long as one."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    print(*await asyncio.gather(*(handler(f"user {n}") for n in range(10))), sep="\n")
    print("together" if loop.time() - began < 1 else "one after the other")


if __name__ == "__main__":
    asyncio.run(main())
