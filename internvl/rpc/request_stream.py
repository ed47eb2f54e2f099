"""The messages a client streams in, read on for a moment after its call was refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from typing import Generic, Self, TypeVar

from internvl.errors import InvalidField

M = TypeVar("M")

DRAIN_S = 5.0
DRAIN_IDLE_S = 0.2
DRAIN_QUIET_S = 0.02

_LOOKS = 4
"""Each wait is cut into so many: a machine that stood still for one is no client that pauses."""


UNREADABLE = object()
"""Takes the place of a request that could not be decoded."""


def readable(request: M) -> M:
    """The request itself.

    Raises:
        InvalidField: it could not be decoded.
    """
    if request is UNREADABLE:
        raise InvalidField("request", "is not a message of this contract, or holds text that is not UTF-8")
    return request


class RequestStream(Generic[M]):
    """An async iterator over requests that can be drained.

    A grpc.aio client that is still writing when its call ends sees INTERNAL instead of the refusal. So what
    it sends is read and thrown away until it has finished, pauses, or goes on for too long.

    Attributes:
        quiet: whether the contract leaves the client nothing to send at this time. One that keeps to it is
            not writing, so a refusal need hardly wait for it; one that does not is drained like any other.
    """

    def __init__(self, messages: AsyncIterable[M]) -> None:
        self.quiet = False
        self._source = messages
        self._messages: AsyncIterator[M] | None = None
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> M:
        if self._messages is None:
            self._messages = aiter(self._source)
        try:
            return readable(await anext(self._messages))
        except StopAsyncIteration:
            self._ended = True
            raise

    async def drain(self) -> None:
        """Read on until the client has finished, pauses for `DRAIN_IDLE_S` or goes on for `DRAIN_S`.

        One that is to be quiet need only be so for `DRAIN_QUIET_S`.
        """
        if self._ended:
            return
        patience_s = DRAIN_QUIET_S if self.quiet else DRAIN_IDLE_S
        # RuntimeError: a task of the handler is reading at this very moment, and so drains the stream itself.
        with suppress(TimeoutError, StopAsyncIteration, RuntimeError):
            async with asyncio.timeout(DRAIN_S):
                while await self._skip(patience_s):
                    patience_s = DRAIN_IDLE_S

    async def _skip(self, within_s: float) -> bool:
        """Throw the next message away; whether one came in time."""
        reading = asyncio.ensure_future(anext(self))
        try:
            for _ in range(_LOOKS):
                await asyncio.wait({reading}, timeout=within_s / _LOOKS)
            came = reading.done()
        finally:
            reading.cancel()
        if came:
            with suppress(InvalidField):
                reading.result()
        return came
