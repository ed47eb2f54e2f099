"""Files as they arrive: chunk by chunk, counted and hashed on the way."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from internvl.errors import BadMedia, DeadlineExceeded
from vision_service.limits import RequestLimits
from vision_service.requests import check_media_bytes


class Upload:
    """A whole file.

    Attributes:
        data: its bytes.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        # Hashing a whole file at once would hold up every other call.
        self._digest: Any = hashlib.sha256()

    def add(self, chunk: bytes) -> None:
        """Append the next bytes."""
        self.data += chunk
        self._digest.update(chunk)

    @property
    def content_hash(self) -> str:
        """SHA-256 in hex."""
        return str(self._digest.hexdigest())


@asynccontextmanager
async def arriving_in_time(limits: RequestLimits) -> AsyncIterator[None]:
    """Bound the block that reads a request: a silent client must not hold a place for ever.

    Raises:
        DeadlineExceeded: it took longer than a file may take to arrive.
    """
    try:
        async with asyncio.timeout(limits.upload_timeout_s):
            yield
    except TimeoutError:
        raise DeadlineExceeded(f"the file was not complete within {limits.upload_timeout_s:g} s") from None


async def receive_upload(chunks: AsyncIterator[bytes], limits: RequestLimits) -> Upload:
    """Collect a file until the client half-closes.

    Raises:
        BadMedia: the file is empty, or over the limit; the latter is noticed as soon as it is.
    """
    upload = Upload()
    async for chunk in chunks:
        check_media_bytes(len(upload.data) + len(chunk), limits, "chunk")
        upload.add(chunk)
    if not upload.data:
        raise BadMedia("chunk", "the file is empty")
    return upload
