"""What the tests of S3 share."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

from backupiq.storage.objectstore import TransferOptions
from backupiq.storage.s3 import S3Provider
from tests.support.fault_rules import answer_s3

MIB = 1 << 20
HASTY = TransferOptions(connect_seconds=2, read_seconds=1, retries=0, retry_seconds=5, cancel_seconds=0.2)
OpenS3 = Callable[..., S3Provider]


def named(data: bytes) -> str:
    """The key of a pack with these bytes."""
    digest = hashlib.sha256(data).hexdigest()
    return f"data/{digest[:2]}/{digest}"


def answer_bytes(status: int, code: str) -> bytes:
    """An error as an S3 server sends it."""
    body = answer_s3(status, code).body
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\nConnection: close"
    return head.encode() + b"\r\n\r\n" + body


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for something that another task or server does."""
    async with asyncio.timeout(60):
        while not is_so():  # noqa: ASYNC110 - it happens in another thread
            await asyncio.sleep(0.005)
