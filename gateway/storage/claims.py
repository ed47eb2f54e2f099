"""Idempotency keys: a repeated turn gets the answer of the first, generated once, whichever gateway runs it.

Whoever brings a key claims it. The claim is a lease in the store, renewed while the turn runs: a gateway that
dies loses it, and the next one to bring the key takes over. What ended is answered for `KEPT_S`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from gateway.deadline import Deadline
from internvl.errors import AlreadyExists, Conflict, DeadlineExceeded, ServingError, Unavailable
from internvl.telemetry import get_logger

# Long enough for a gateway that is busy or waits for its store; short enough to wait for after a crash.
LEASE_S = 15.0
KEPT_S = 24 * 3600.0

_POLL_S = (0.05, 1.0)  # first and longest pause between two looks at another gateway's turn

_log = get_logger("claims")


@dataclass(frozen=True, slots=True)
class TurnKey:
    """An idempotency key, within its conversation or, without one, within its tenant.

    Attributes:
        tenant: whose key.
        conversation_id: which conversation; empty for turns without one.
        key: as the client gave it.
    """

    tenant: str
    conversation_id: str
    key: str


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run the turn of a key. `turn_id` tells it from claims of other turns to the same key."""

    key: TurnKey
    turn_id: str


@dataclass(frozen=True, slots=True)
class Running:
    """Somebody else runs the turn of this key, here or on another gateway."""

    turn_id: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The turn of this key has ended.

    Attributes:
        turn_id: its name.
        answer: what `append` or `answer` were told to keep.
    """

    turn_id: str
    answer: bytes


class ClaimStore(Protocol):
    """Who runs the turn of which key, and how the turns that ended were answered."""

    async def claim(
        self, key: TurnKey, fingerprint: str, turn_id: str, lease_s: float = LEASE_S
    ) -> Claim | Running | Answered:
        """Claim a key for a turn, or tell who has it.

        Args:
            key: which key.
            fingerprint: hash of the request; a key stands for one request only.
            turn_id: the turn that is to run.
            lease_s: how long the claim holds unless it is renewed, in seconds.

        Raises:
            AlreadyExists: the key was used with another request.
        """

    async def renew(self, claim: Claim, lease_s: float = LEASE_S) -> None:
        """Hold a claim for longer.

        Raises:
            Conflict: it ran out and somebody else may have the key.
        """

    async def answer(self, claim: Claim, answer: bytes) -> None:
        """End a turn that belongs to no conversation. For the others, `append` does this.

        Raises:
            Conflict: the claim was lost; nothing is changed.
        """

    async def release(self, claim: Claim) -> None:
        """Give a key back whose turn left nothing to keep: the next call runs it. Nothing happens to a claim
        that was lost or answered."""


class Claims:
    """Claims that are waited for, held and given back."""

    def __init__(self, store: ClaimStore, lease_s: float = LEASE_S) -> None:
        self._store = store
        self._lease_s = lease_s

    async def take(self, key: TurnKey, fingerprint: str, turn_id: str) -> Claim | Running | Answered:
        """As `ClaimStore.claim`."""
        return await self._store.claim(key, fingerprint, turn_id, self._lease_s)

    async def wait(
        self, key: TurnKey, fingerprint: str, turn_id: str, deadline: Deadline
    ) -> Claim | Answered:
        """As `take`, but if somebody else runs the turn, wait until it is answered, given back or lost.

        Raises:
            AlreadyExists: the key was used with another request.
            DeadlineExceeded: the other turn still runs.
        """
        pause_s, longest_s = _POLL_S
        while isinstance(found := await self.take(key, fingerprint, turn_id), Running):
            left_s = deadline.remaining_s
            if left_s is not None and left_s <= 0:
                raise DeadlineExceeded("the turn of this idempotency key still runs; ask again later")
            await asyncio.sleep(pause_s if left_s is None else min(pause_s, left_s))
            pause_s = min(2 * pause_s, longest_s)
        return found

    async def answer(self, claim: Claim, answer: bytes) -> None:
        """As `ClaimStore.answer`."""
        await self._store.answer(claim, answer)

    @asynccontextmanager
    async def held(self, claim: Claim) -> AsyncIterator[None]:
        """Renew a claim while the block runs; at its end, give back what was not answered.

        A claim that is lost on the way does not end the block: its turn cannot be stored any more, and says
        so then.
        """
        renewing = asyncio.create_task(self._keep_renewing(claim))
        try:
            yield
        finally:
            renewing.cancel()
            with suppress(ServingError):  # it runs out by itself
                await self._store.release(claim)

    async def _keep_renewing(self, claim: Claim) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                await self._store.renew(claim, self._lease_s)
            except Conflict:
                _log.warning("claim lost", turn_id=claim.turn_id)
                return
            except Unavailable:
                continue  # it may be back before the lease runs out


def key_taken() -> AlreadyExists:
    """What a store raises for a key that stands for another request."""
    return AlreadyExists("idempotency_key: was used with another request; take a new key for a new request")


def lost_claim() -> Conflict:
    """What a store raises for a claim that ran out."""
    return Conflict(
        "the turn was silent for too long and its idempotency key may have gone to another attempt"
    )
