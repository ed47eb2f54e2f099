"""The end of a turn: stored exactly once, whatever happens meanwhile to whoever waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from gateway.storage.claims import Claim
from gateway.storage.conversations import Conversation, StoredTurn
from gateway.storage.store import Store
from internvl.errors import ServingError
from internvl.telemetry import get_logger

T = TypeVar("T")

_log = get_logger("gateway")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a turn is stored.

    Attributes:
        tenant: whose it is.
        conversation: which one it continues, if any.
        claim: its claim to an idempotency key, if it has one.
    """

    tenant: str
    conversation: Conversation | None
    claim: Claim | None

    @property
    def next_version(self) -> int | None:
        """Version of the conversation once the turn is stored."""
        return None if self.conversation is None else self.conversation.version + 1


class TurnKeeper:
    """Writes that go on to their end even if their turn is cancelled."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writing: set[asyncio.Task[Any]] = set()

    async def keep(self, place: Place, turn: StoredTurn, answer: bytes) -> None:
        """Store a whole turn, and answer its key with `answer`.

        Raises:
            Conflict: another turn was stored meanwhile, or the claim was lost.
            ServingError: whatever the store raises.
        """
        conversation = place.conversation
        if conversation is not None:
            name, version = conversation.conversation_id, conversation.version
            conversations = self._store.conversations
            append = conversations.append(place.tenant, name, version, turn, place.claim, answer)
            await self._to_its_end(append)
        elif place.claim is not None:
            await self._to_its_end(self._store.claims.answer(place.claim, answer))

    async def keep_partial(self, place: Place, turn: StoredTurn) -> None:
        """Store what a turn had said when it ended early.

        One with an idempotency key is stored whole or not at all: its key stays free, so that asking again
        runs it. One that had said nothing leaves no trace.
        """
        conversation = place.conversation
        if conversation is None or place.claim is not None:
            return
        name, version = conversation.conversation_id, conversation.version
        try:
            await self._to_its_end(self._store.conversations.append(place.tenant, name, version, turn))
        except ServingError as error:
            _log.warning("partial answer not stored", turn_id=turn.turn_id, reason=error.reason)

    async def close(self) -> None:
        """Wait for the writes under way."""
        if self._writing:
            await asyncio.wait(self._writing)

    async def _to_its_end(self, write: Coroutine[Any, Any, T]) -> T:
        task = asyncio.create_task(write)
        self._writing.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    def _written(self, task: asyncio.Task[Any]) -> None:
        self._writing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.info("turn not stored", problem=type(error).__name__)


@asynccontextmanager
async def turn_keeper(store: Store) -> AsyncIterator[TurnKeeper]:
    """A keeper whose writes are done when the block ends."""
    keeper = TurnKeeper(store)
    try:
        yield keeper
    finally:
        await keeper.close()
