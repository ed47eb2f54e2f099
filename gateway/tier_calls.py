"""What all calls to a tier have in common."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import grpc

from internvl.rpc import error_from_rpc

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the client stops waiting.

    Attributes:
        at: on the monotonic clock, in seconds; None if it waits for ever.
    """

    at: float | None

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """The deadline that many seconds from now."""
        return cls(None if seconds is None else time.monotonic() + seconds)

    @property
    def remaining_s(self) -> float | None:
        """What is left of it: the timeout of the next call to a tier."""
        return None if self.at is None else max(0.0, self.at - time.monotonic())


async def next_message(call: grpc.aio.StreamStreamCall[Any, T], peer: str) -> T | None:
    """The next message of a stream; None at the end of a successful one.

    Raises:
        ServingError: what the tier answered, or `Unavailable` naming `peer`.
    """
    try:
        message = await call.read()
    except grpc.RpcError as error:
        raise error_from_rpc(error, peer) from error
    return None if message is grpc.aio.EOF else cast(T, message)


async def response_of(call: Awaitable[T], peer: str) -> T:
    """The response of a call that has one.

    Raises:
        ServingError: as `next_message`.
    """
    try:
        return await call
    except grpc.RpcError as error:
        raise error_from_rpc(error, peer) from error
