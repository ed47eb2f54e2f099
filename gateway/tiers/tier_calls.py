"""What all calls to a tier have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import grpc

from gateway.deadline import Deadline
from gateway.tiers.replica import Replica, ReplicaLost
from gateway.tiers.replicas import Replicas
from gateway.tiers.retries import Attempts

C = TypeVar("C")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CallTerms:
    """What holds for every call of one turn.

    Attributes:
        deadline: when the client stops waiting.
        attempts: what may still be tried again.
    """

    deadline: Deadline
    attempts: Attempts


@asynccontextmanager
async def leased(replicas: Replicas[C], key: bytes, terms: CallTerms) -> AsyncIterator[Replica[C]]:
    """The replica for one call, away from those that the turn has lost before.

    Raises:
        Unavailable: no replica serves.
    """
    patience_s = terms.attempts.patience_s
    left = terms.deadline.remaining_s
    patience_s = patience_s if left is None else min(patience_s, left)
    async with replicas.lease(key, avoid=terms.attempts.lost, patience_s=patience_s) as replica:
        yield replica


async def answered(
    replicas: Replicas[C], key: bytes, terms: CallTerms, ask: Callable[[C, float | None], Awaitable[T]]
) -> T:
    """The response of a call that may be made again whenever it loses its replica.

    Args:
        key: as for `Replicas.lease`.
        ask: makes the call, of these calls of a replica and with this timeout in seconds.

    Raises:
        ServingError: what the tier answered, or that it cannot be reached.
    """
    while True:
        try:
            async with leased(replicas, key, terms) as replica:
                return await _response_of(ask(replica.calls, terms.deadline.next_hop_s), replica)
        except ReplicaLost as lost:
            await terms.attempts.again(lost)


async def next_message(call: grpc.aio.StreamStreamCall[Any, T], replica: Replica[Any]) -> T | None:
    """The next message of a stream; None at the end of a successful one.

    Raises:
        ServingError: what the tier answered, or `ReplicaLost` naming the tier.
    """
    try:
        message = await call.read()
    except grpc.RpcError as error:
        raise replica.error(error) from error
    return None if message is grpc.aio.EOF else cast(T, message)


async def _response_of(call: Awaitable[T], replica: Replica[Any]) -> T:
    """The response of a call that has one.

    Raises:
        ServingError: as `next_message`.
    """
    try:
        return await call
    except grpc.RpcError as error:
        raise replica.error(error) from error
