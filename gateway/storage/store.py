"""What a gateway keeps, whichever store keeps it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.storage.claims import ClaimStore
from gateway.storage.conversations import ConversationStore
from gateway.storage.media_index import MediaIndex
from gateway.storage.redis_claims import RedisClaims
from gateway.storage.redis_conversations import RedisConversations
from gateway.storage.redis_media import RedisMedia
from gateway.storage.redis_store import open_redis
from gateway.storage.sqlite_claims import SqliteClaims
from gateway.storage.sqlite_conversations import SqliteConversations
from gateway.storage.sqlite_media import SqliteMedia
from gateway.storage.sqlite_store import open_database

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
async def open_store(where: str, most_conversations: int | None = None) -> AsyncIterator[Store]:
    """Open the store that `where` names: `redis://`, `rediss://` or `unix://` for Redis, an SQLite file, or
    `memory`.

    Args:
        where: names it.
        most_conversations: of each tenant; None for any number.

    Raises:
        ConfigError: it cannot be used.
    """
    if where.startswith(_REDIS):
        async with open_redis(where) as server:
            yield Store(
                RedisConversations(server, most_conversations), RedisClaims(server), RedisMedia(server)
            )
        return
    async with open_database(None if where == MEMORY else Path(where)) as database:
        yield Store(
            SqliteConversations(database, most_conversations), SqliteClaims(database), SqliteMedia(database)
        )
