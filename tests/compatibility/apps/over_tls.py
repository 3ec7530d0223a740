"""HTTP clients, sync and async, over TLS.  The sync ones block until this same service has answered another request."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator

import aiohttp
import httpx
import requests
import urllib3
from routes import application

CERTIFICATE = os.environ["CERTIFICATE"]
INNER = f"https://localhost:{os.environ['PORT']}/inner"
trusting = ssl.create_default_context(cafile=CERTIFICATE)


pool: urllib3.PoolManager
session: requests.Session
client: httpx.Client
async_client: httpx.AsyncClient
aiohttp_session: aiohttp.ClientSession
stack = contextlib.AsyncExitStack()


@contextlib.asynccontextmanager
async def clients() -> AsyncIterator[None]:
    global pool, session, client, async_client, aiohttp_session
    async with stack:
        pool = stack.enter_context(urllib3.PoolManager(ca_certs=CERTIFICATE, maxsize=2, block=True))
        session = stack.enter_context(requests.Session())
        client = stack.enter_context(httpx.Client(verify=trusting, timeout=60))
        async_client = await stack.enter_async_context(httpx.AsyncClient(verify=trusting, timeout=60))
        connector = aiohttp.TCPConnector(ssl=trusting)
        aiohttp_session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        yield


async def closes() -> str:
    """Before the service stops: who closes a connection over TLS waits 30 seconds for a client that does not look."""
    await stack.aclose()
    return "closed"


waiting = 0
everybody = asyncio.Event()


async def inner(together: str = "1") -> str:
    """Answers when so many ask, and so lets none go whom another one keeps from asking."""
    global waiting
    waiting += 1
    if waiting == int(together):
        everybody.set()
    await everybody.wait()
    return "inner"


async def by_requests() -> str:
    response = requests.get(INNER, params={"together": "4"}, verify=CERTIFICATE, timeout=60)
    return response.text


async def by_session() -> str:
    """Shared by all, as many do."""
    return session.get(INNER, verify=CERTIFICATE, timeout=60).text


async def by_urllib3() -> str:
    """Two connections for all of them: who finds none waits for one that another gives back."""
    response = pool.request("GET", INNER, headers={"accept-encoding": "gzip"}, timeout=60)
    return response.data.decode()


async def by_httpx() -> str:
    return client.get(INNER).text


async def by_httpx_async() -> str:
    return (await async_client.get(INNER)).text


async def by_aiohttp() -> str:
    async with aiohttp_session.get(INNER) as response:
        return await response.text()


app = application(
    inner, closes, by_requests, by_session, by_urllib3, by_httpx, by_httpx_async, by_aiohttp, lifespan=clients
)
