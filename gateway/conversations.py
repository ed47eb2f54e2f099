"""What a store of conversations must do. Every implementation passes `tests/unit/test_store.py`."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.content import Message


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation and all that was said in it.

    Attributes:
        conversation_id: names it.
        version: number of turns stored.
        messages: oldest first. Media is held by id, never as bytes.
        created: when it was created, in UTC.
        updated: when its last turn was stored, in UTC.
    """

    conversation_id: str
    version: int
    messages: tuple[Message, ...]
    created: datetime.datetime
    updated: datetime.datetime


class ConversationStore(Protocol):
    """Append-only lists of turns. A turn is stored whole, with its answer, or not at all."""

    async def create(self, messages: Sequence[Message]) -> Conversation:
        """Start a conversation of version 0 with these opening messages: none, or one system message."""

    async def get(self, conversation_id: str) -> Conversation:
        """Fetch a conversation.

        Raises:
            NotFound: there is none of this id.
        """

    async def append(self, conversation_id: str, version: int, messages: Sequence[Message]) -> int:
        """Store one turn: what the user said and the answer, and return the new version.

        Args:
            conversation_id: which conversation.
            version: the version that the turn continues.
            messages: the turn's messages, oldest first.

        Raises:
            NotFound: there is none of this id.
            Conflict: another turn was stored meanwhile; nothing is changed.
        """

    async def delete(self, conversation_id: str) -> None:
        """Forget a conversation.

        Raises:
            NotFound: there is none of this id.
        """
