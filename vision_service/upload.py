"""Files as they arrive: chunk by chunk, counted and hashed on the way."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from internvl.errors import BadMedia, DeadlineExceeded, ServingError
from vision_service.limits import RequestLimits
from vision_service.requests import check_media_bytes

M = TypeVar("M")

_DRAIN_S = 5.0
_DRAIN_IDLE_S = 0.2


class RequestStream(Generic[M]):
    """The messages of a client, read on for a moment after the call was refused.

    A grpc.aio client that is still writing when its call ends sees INTERNAL instead of the refusal. So what
    it sends is read and thrown away until it has finished, pauses, or goes on for too long.
    """

    def __init__(self, messages: AsyncIterator[M]) -> None:
        self._messages = aiter(messages)
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> M:
        try:
            return await anext(self._messages)
        except StopAsyncIteration:
            self._ended = True
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, ServingError) and not self._ended:
            await self._drain()

    async def _drain(self) -> None:
        with suppress(TimeoutError, StopAsyncIteration):
            async with asyncio.timeout(_DRAIN_S):
                while True:
                    await asyncio.wait_for(anext(self), _DRAIN_IDLE_S)


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


async def receive_upload(chunks: AsyncIterator[bytes], limits: RequestLimits) -> Upload:
    """Collect a file until the client half-closes.

    Raises:
        BadMedia: the file is empty, or over the limit; the latter is noticed as soon as it is.
        DeadlineExceeded: it took too long to arrive.
    """
    upload = Upload()
    try:
        async with asyncio.timeout(limits.upload_timeout_s):
            async for chunk in chunks:
                check_media_bytes(len(upload.data) + len(chunk), limits, "chunk")
                upload.add(chunk)
    except TimeoutError:
        raise DeadlineExceeded(f"the file was not complete within {limits.upload_timeout_s:g} s") from None
    if not upload.data:
        raise BadMedia("chunk", "the file is empty")
    return upload
