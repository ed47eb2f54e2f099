"""Conversations in Redis."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from gateway.content import Message
from gateway.storage import redis_scripts
from gateway.storage.claims import KEPT_S, Claim, lost_claim
from gateway.storage.conversations import (
    Conversation,
    Head,
    Page,
    StoredTurn,
    fork_of,
    new_conversation,
    other_version,
    page_of,
    read_cursor,
    too_many_conversations,
    unknown_conversation,
    utc_now,
)
from gateway.storage.redis_claims import claim_name
from gateway.storage.redis_store import RedisServer
from gateway.storage.stored_form import decode_opening, decode_turn, encode_opening, encode_turn


class RedisConversations:
    """A `ConversationStore`."""

    def __init__(self, server: RedisServer, most: int | None = None) -> None:
        """`most` conversations a tenant; None for any number."""
        self._server = server
        self._most = most

    async def create(
        self,
        tenant: str,
        opening: Sequence[Message] = (),
        *,
        title: str = "",
        time_to_live_s: float | None = None,
    ) -> Conversation:
        conversation = new_conversation(opening, title, time_to_live_s)
        await self._insert(tenant, conversation)
        return conversation

    async def get(self, tenant: str, conversation_id: str) -> Conversation:
        found = await self._server.run(redis_scripts.GET, tenant, conversation_id, _now())
        if not found:
            raise unknown_conversation()
        row, opening, turns = found
        head = _head(row)
        return Conversation(
            head.conversation_id,
            head.version,
            head.title,
            head.created,
            head.updated,
            head.time_to_live_s,
            decode_opening(opening),
            tuple(map(decode_turn, turns)),
        )

    async def list(self, tenant: str, limit: int, token: str = "") -> Page:
        updated, last = read_cursor(token)
        rows = await self._server.run(redis_scripts.LIST, tenant, _now(), updated, last, str(limit + 1))
        return page_of(list(map(_head, rows)), limit)

    async def update(
        self,
        tenant: str,
        conversation_id: str,
        *,
        title: str | None = None,
        time_to_live_s: float | None = None,
    ) -> Head:
        row = await self._server.run(
            redis_scripts.UPDATE,
            tenant,
            conversation_id,
            _now(),
            "0" if title is None else "1",
            title or "",
            "" if time_to_live_s is None else time_to_live_s,
        )
        if not row:
            raise unknown_conversation()
        return _head(row)

    async def fork(
        self, tenant: str, conversation_id: str, turns: int | None = None, title: str | None = None
    ) -> Conversation:
        # Turns are only ever added, so what was read stays true while it is copied.
        fork = fork_of(await self.get(tenant, conversation_id), turns, title)
        await self._insert(tenant, fork)
        return fork

    async def append(
        self,
        tenant: str,
        conversation_id: str,
        version: int,
        turn: StoredTurn,
        claim: Claim | None = None,
        answer: bytes = b"",
    ) -> int:
        held = ("", "") if claim is None else (claim_name(claim.key), claim.turn_id)
        result = await self._server.run(
            redis_scripts.APPEND,
            *(tenant, conversation_id, _now(), str(version), encode_turn(turn)),
            *(*held, answer, KEPT_S),
            *turn.media_ids,
        )
        match result:
            case None:
                raise unknown_conversation()
            case b"lost":
                raise lost_claim()
            case [current]:
                raise other_version(version, current)
            case _:
                return version + 1

    async def delete(self, tenant: str, conversation_id: str) -> None:
        if not await self._server.run(redis_scripts.DELETE, tenant, conversation_id, _now()):
            raise unknown_conversation()

    async def sweep(self) -> int:
        total = 0
        while dropped := await self._server.run(redis_scripts.SWEEP, _now()):
            total += dropped
        return total

    async def _insert(self, tenant: str, new: Conversation) -> None:
        if await self._inserted(tenant, new):
            return
        await self.sweep()
        if not await self._inserted(tenant, new):
            raise too_many_conversations(self._most or 0)

    async def _inserted(self, tenant: str, new: Conversation) -> bool:
        """Insert a conversation unless there are too many already."""
        media_ids = {media_id for turn in new.turns for media_id in turn.media_ids}
        done = await self._server.run(
            redis_scripts.INSERT,
            *(tenant, new.conversation_id, str(new.version), new.title, encode_opening(new.opening)),
            *(_text(new.created), _text(new.updated)),
            "" if new.time_to_live_s is None else new.time_to_live_s,
            "" if new.expires is None else _text(new.expires),
            "" if self._most is None else str(self._most),
            *(str(len(media_ids)), *media_ids),
            *map(encode_turn, new.turns),
        )
        return bool(done)


def _head(row: list[Any]) -> Head:
    conversation_id, version, title, created, updated, time_to_live_s = (field.decode() for field in row)
    return Head(
        conversation_id,
        int(version),
        title,
        _utc(created),
        _utc(updated),
        float(time_to_live_s) if time_to_live_s else None,
    )


def _now() -> str:
    return _text(utc_now())


def _text(time: datetime.datetime) -> str:
    """Seconds since the epoch, with all the digits that a `datetime` has."""
    return f"{time.timestamp():.6f}"


def _utc(timestamp: str) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(float(timestamp), datetime.UTC)
