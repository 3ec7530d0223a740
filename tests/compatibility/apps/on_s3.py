"""S3 by boto3 in coroutines, beside aiobotocore.  Each waits for what the other puts there."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import AsyncIterator
from typing import Any

import aiobotocore.session
import boto3
from blocking import shelf
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from routes import application

BUCKET = "bucket"
WITH: dict[str, Any] = {
    "endpoint_url": os.environ["S3"],
    "aws_access_key_id": "key",
    "aws_secret_access_key": "secret",
    "region_name": "us-east-1",
    "verify": os.environ["CERTIFICATE"],
}
UNTIL_IT_IS_THERE = {"Delay": 0.05, "MaxAttempts": 1000}
MEBIBYTE = 1 << 20

client: Any
async_client: Any


@contextlib.asynccontextmanager
async def clients() -> AsyncIterator[None]:
    global client, async_client
    client = boto3.client("s3", config=Config(max_pool_connections=2), **WITH)
    client.create_bucket(Bucket=BUCKET)
    async with aiobotocore.session.get_session().create_client("s3", **WITH) as async_client:
        yield
    client.close()


async def waits(key: str) -> str:
    """Blocks until the object is there."""
    client.get_waiter("object_exists").wait(Bucket=BUCKET, Key=key, WaiterConfig=UNTIL_IT_IS_THERE)
    return client.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()


async def awaits(key: str) -> str:
    waiter = async_client.get_waiter("object_exists")
    await waiter.wait(Bucket=BUCKET, Key=key, WaiterConfig=UNTIL_IT_IS_THERE)
    answer = await async_client.get_object(Bucket=BUCKET, Key=key)
    async with answer["Body"] as body:
        return (await body.read()).decode()


async def puts(key: str, word: str) -> str:
    client.put_object(Bucket=BUCKET, Key=key, Body=word.encode())
    return "put"


async def aputs(key: str, word: str) -> str:
    await async_client.put_object(Bucket=BUCKET, Key=key, Body=word.encode())
    return "put"


class Shelf(io.RawIOBase):
    """A file whose content another request has to bring."""

    def __init__(self) -> None:
        self._rest = [b"", b" last", b"middle", b"first "]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._rest.pop()
        if part == b"middle":
            part = shelf.get().encode()
        buffer[: len(part)] = part
        return len(part)


async def uploads(key: str) -> str:
    """Blocks in the middle of an object."""
    client.upload_fileobj(Shelf(), BUCKET, key, Config=TransferConfig(use_threads=False))
    return client.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()


async def brings(word: str) -> str:
    shelf.put(word)
    return "brought"


async def in_parts(key: str) -> str:
    """By threads of boto3's own, which the handler waits for."""
    content = os.urandom(6 * MEBIBYTE)
    config = TransferConfig(multipart_threshold=5 * MEBIBYTE, multipart_chunksize=5 * MEBIBYTE)
    client.upload_fileobj(io.BytesIO(content), BUCKET, key, Config=config)
    got = io.BytesIO()
    client.download_fileobj(BUCKET, key, got, Config=config)
    return str(got.getvalue() == content)


async def fresh(key: str) -> str:
    """By a client of its own, made in the session that all share."""
    with contextlib.closing(boto3.client("s3", **WITH)) as own:
        own.put_object(Bucket=BUCKET, Key=key, Body=b"fresh")
        return own.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()


app = application(waits, awaits, puts, aputs, uploads, brings, in_parts, fresh, lifespan=clients)
