"""gRPC's asyncio server, whose handlers block, and its clients, sync and async, that ask it in the same process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import grpc
from blocking import ask_backend, shelf

import hybridexec

ADDRESS = f"127.0.0.1:{os.environ['PORT']}"
channel = grpc.insecure_channel(ADDRESS)
"""The sync client's: who asks by it blocks in C, where nobody has declared that."""


async def inner(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    return b"inner"


async def outer(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    answer: bytes = channel.unary_unary("/service/inner")(b"")
    return b"outer " + answer


async def put(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    shelf.put(request.decode())
    return b"put"


async def backend(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    return ask_backend().encode()


async def stream(request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    yield b"first"
    yield shelf.get().encode()
    yield b"last"


async def gather(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> bytes:
    """Blocks for each that it is sent."""
    return b" ".join([request + shelf.get().encode() async for request in requests])


async def converse(requests: object, context: grpc.aio.ServicerContext) -> None:
    """By the other way that a stream can be read and written."""
    while (request := await context.read()) is not grpc.aio.EOF:
        await context.write(request + shelf.get().encode())


async def forever(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    """Blocks, and waits until the client's cancelling ends it."""
    print(ask_backend(), flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("cancelled", flush=True)
    return b""


async def client(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    """Ask by the async client what is answered only when others have been."""
    async with grpc.aio.insecure_channel(ADDRESS) as channel:

        async def ask(name: str) -> bytes:
            return await channel.unary_unary(f"/service/{name}")(b"middle")

        async def read() -> bytes:
            return b" ".join([part async for part in channel.unary_stream("/service/stream")(b"")])

        return b", ".join(await asyncio.gather(read(), ask("outer"), ask("put")))


async def main() -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    server = grpc.aio.server()
    handlers = {
        "stream": grpc.unary_stream_rpc_method_handler(stream),
        "gather": grpc.stream_unary_rpc_method_handler(gather),
        "converse": grpc.stream_stream_rpc_method_handler(converse),
    }
    for unary in (inner, outer, put, backend, forever, client):
        handlers[unary.__name__] = grpc.unary_unary_rpc_method_handler(unary)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("service", handlers)])
    server.add_insecure_port(ADDRESS)
    await server.start()
    try:
        await ended.wait()
    finally:
        print("ending", flush=True)
        await server.stop(60)
        channel.close()


if __name__ == "__main__":
    try:
        hybridexec.run(main())
    except KeyboardInterrupt:
        print("interrupted")
