"""What a gateway keeps, whichever store keeps it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.claims import ClaimStore
from gateway.conversations import ConversationStore
from gateway.media_index import MediaIndex
from gateway.redis_claims import RedisClaims
from gateway.redis_conversations import RedisConversations
from gateway.redis_media import RedisMedia
from gateway.redis_store import open_redis
from gateway.sqlite_claims import SqliteClaims
from gateway.sqlite_conversations import SqliteConversations
from gateway.sqlite_media import SqliteMedia
from gateway.sqlite_store import open_database

MEMORY = "memory"
_REDIS = ("redis://", "rediss://", "unix://")


@dataclass(frozen=True, slots=True)
class Store:
    """One place for all that outlives a call.

    Attributes:
        conversations: what was said.
        claims: who answers which idempotency key.
        media: which files there are, and who may see them.
    """

    conversations: ConversationStore
    claims: ClaimStore
    media: MediaIndex


@asynccontextmanager
async def open_store(where: str) -> AsyncIterator[Store]:
    """Open the store that `where` names: `redis://`, `rediss://` or `unix://` for Redis, an SQLite file, or
    `memory`.

    Raises:
        ConfigError: it cannot be used.
    """
    if where.startswith(_REDIS):
        async with open_redis(where) as server:
            yield Store(RedisConversations(server), RedisClaims(server), RedisMedia(server))
        return
    async with open_database(None if where == MEMORY else Path(where)) as database:
        yield Store(SqliteConversations(database), SqliteClaims(database), SqliteMedia(database))
