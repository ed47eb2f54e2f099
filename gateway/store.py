"""What a gateway keeps, whichever store keeps it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.claims import ClaimStore
from gateway.conversations import ConversationStore
from gateway.sqlite_claims import SqliteClaims
from gateway.sqlite_conversations import SqliteConversations
from gateway.sqlite_store import open_database

MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Store:
    """One place for all that outlives a call.

    Attributes:
        conversations: what was said.
        claims: who answers which idempotency key.
    """

    conversations: ConversationStore
    claims: ClaimStore


@asynccontextmanager
async def open_store(where: str) -> AsyncIterator[Store]:
    """Open the store that `where` names: an SQLite file, or `memory`.

    Raises:
        ConfigError: it cannot be used.
    """
    async with open_database(None if where == MEMORY else Path(where)) as database:
        yield Store(SqliteConversations(database), SqliteClaims(database))
