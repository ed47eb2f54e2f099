"""Idempotency keys in Redis. Leases run by the clock of the server, which all gateways share."""

from __future__ import annotations

from gateway.storage import redis_scripts
from gateway.storage.claims import KEPT_S, LEASE_S, Answered, Claim, Running, TurnKey, key_taken, lost_claim
from gateway.storage.redis_store import PREFIX, RedisServer


class RedisClaims:
    """A `ClaimStore`."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    async def claim(
        self, key: TurnKey, fingerprint: str, turn_id: str, lease_s: float = LEASE_S
    ) -> Claim | Running | Answered:
        found = await self._server.run(
            redis_scripts.CLAIM,
            *(claim_name(key), _set_name(key), fingerprint, turn_id, float(lease_s), KEPT_S),
        )
        match found:
            case b"claimed":
                return Claim(key, turn_id)
            case b"taken":
                raise key_taken()
            case [holder]:
                return Running(holder.decode())
            case _:
                holder, answer = found
                return Answered(holder.decode(), answer)

    async def renew(self, claim: Claim, lease_s: float = LEASE_S) -> None:
        if not await self._server.run(redis_scripts.RENEW, *_held(claim), float(lease_s)):
            raise lost_claim()

    async def answer(self, claim: Claim, answer: bytes) -> None:
        if not await self._server.run(redis_scripts.ANSWER, *_held(claim), answer, KEPT_S):
            raise lost_claim()

    async def release(self, claim: Claim) -> None:
        await self._server.run(redis_scripts.RELEASE, *_held(claim))


def claim_name(key: TurnKey) -> str:
    """The key's place in Redis. Lengths keep apart what holds colons."""
    scope = f"{len(key.tenant)}:{key.tenant}:{len(key.conversation_id)}:{key.conversation_id}"
    return f"{PREFIX}:claim:{scope}:{key.key}"


def _set_name(key: TurnKey) -> str:
    return f"{PREFIX}:keys:{key.tenant}:{key.conversation_id}" if key.conversation_id else ""


def _held(claim: Claim) -> tuple[str, str]:
    return claim_name(claim.key), claim.turn_id
