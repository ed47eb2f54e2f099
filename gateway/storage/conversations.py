"""What a store of conversations must do. Every implementation passes
`tests/unit/test_store_conversations.py`."""

from __future__ import annotations

import base64
import datetime
import enum
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.answer import Usage
from gateway.content import Media, Message
from gateway.storage.claims import Claim
from internvl.errors import Conflict, FailedPrecondition, InvalidField, NotFound


class TurnOutcome(enum.Enum):
    """How an answer ended, for good. A cancelled or failed one is kept with what it had said."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


def utc_now() -> datetime.datetime:
    """The time, in UTC."""
    return datetime.datetime.now(datetime.UTC)


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """One turn as it is kept.

    Attributes:
        turn_id: names it.
        messages: what was said, oldest first; the last one is the answer, whole or partial. Media is held by
            id, never as bytes.
        outcome: how the answer ended.
        usage: what was counted; None where it ended before it was.
        key: its idempotency key, if it had one.
        created: when it ended, in UTC.
    """

    turn_id: str
    messages: tuple[Message, ...]
    outcome: TurnOutcome
    usage: Usage | None = None
    key: str | None = None
    created: datetime.datetime = field(default_factory=utc_now)

    @property
    def media_ids(self) -> frozenset[str]:
        """All pictures and films of its messages."""
        parts = (part for message in self.messages for part in message.parts)
        return frozenset(part.media_id for part in parts if isinstance(part, Media))


@dataclass(frozen=True, slots=True)
class Head:
    """A conversation without what was said in it.

    Attributes:
        conversation_id: names it.
        version: number of turns stored.
        title: for people.
        created: when it was created, in UTC.
        updated: when it was last changed, in UTC.
        time_to_live_s: how long it is kept after its last change, in seconds; None for ever.
    """

    conversation_id: str
    version: int
    title: str
    created: datetime.datetime
    updated: datetime.datetime
    time_to_live_s: float | None = None

    @property
    def expires(self) -> datetime.datetime | None:
        """When it will be forgotten if nothing changes it."""
        if self.time_to_live_s is None:
            return None
        return self.updated + datetime.timedelta(seconds=self.time_to_live_s)


@dataclass(frozen=True, slots=True)
class Conversation(Head):
    """A conversation and all that was said in it.

    Attributes:
        opening: what it began with: nothing, or one system message.
        turns: oldest first; turn `i` made version `i + 1`.
    """

    opening: tuple[Message, ...] = ()
    turns: tuple[StoredTurn, ...] = ()

    @property
    def messages(self) -> tuple[Message, ...]:
        """All messages, oldest first."""
        return (*self.opening, *(message for turn in self.turns for message in turn.messages))


@dataclass(frozen=True, slots=True)
class Page:
    """Conversations, the last changed first.

    Attributes:
        heads: the conversations.
        next_token: asks for the next page; empty on the last one.
    """

    heads: tuple[Head, ...]
    next_token: str


class ConversationStore(Protocol):
    """Append-only lists of turns, each the property of one tenant.

    To every other tenant a conversation does not exist, and neither does one whose time to live is over.
    Every call raises `Unavailable` at once while the store is down; it works again as soon as the store does.
    """

    async def create(
        self,
        tenant: str,
        opening: Sequence[Message] = (),
        *,
        title: str = "",
        time_to_live_s: float | None = None,
    ) -> Conversation:
        """Start a conversation of version 0 with these opening messages: none, or one system message.

        Raises:
            FailedPrecondition: this tenant has as many as one may have.
        """

    async def get(self, tenant: str, conversation_id: str) -> Conversation:
        """Fetch a conversation.

        Raises:
            NotFound: this tenant has none of this id.
        """

    async def list(self, tenant: str, limit: int, token: str = "") -> Page:
        """A page of at most `limit` conversations, the last changed first, behind the page that gave `token`.

        Raises:
            InvalidField: `token` is none that `Page.next_token` gave.
        """

    async def update(
        self,
        tenant: str,
        conversation_id: str,
        *,
        title: str | None = None,
        time_to_live_s: float | None = None,
    ) -> Head:
        """Change what is not None. The version stays.

        Raises:
            NotFound: this tenant has none of this id.
        """

    async def fork(
        self, tenant: str, conversation_id: str, turns: int | None = None, title: str | None = None
    ) -> Conversation:
        """Start a conversation with the opening and the first turns of another one; None takes all, and its
        title.

        Raises:
            NotFound: this tenant has none of this id.
            InvalidField: `turns`: it has fewer.
            FailedPrecondition: this tenant has as many as one may have.
        """

    async def append(
        self,
        tenant: str,
        conversation_id: str,
        version: int,
        turn: StoredTurn,
        claim: Claim | None = None,
        answer: bytes = b"",
    ) -> int:
        """Store one turn and return the new version.

        Args:
            tenant: whose conversation.
            conversation_id: which conversation.
            version: the version that the turn continues.
            turn: what was said.
            claim: the turn's claim to its idempotency key, which is answered in the same transaction: the
                turn is stored and its key answered, or neither.
            answer: what whoever repeats the key is told.

        Raises:
            NotFound: this tenant has none of this id.
            Conflict: another turn was stored meanwhile, or the claim was lost; nothing is changed.
        """

    async def delete(self, tenant: str, conversation_id: str) -> None:
        """Forget a conversation, with the answers to its idempotency keys.

        Raises:
            NotFound: this tenant has none of this id.
        """

    async def sweep(self) -> int:
        """Drop what is out of time, of all tenants, and return how many conversations that were."""


def new_conversation(opening: Sequence[Message], title: str, time_to_live_s: float | None) -> Conversation:
    """An empty conversation that begins now, under a name of its own."""
    now = utc_now()
    return Conversation(uuid.uuid4().hex, 0, title, now, now, time_to_live_s, opening=tuple(opening))


def fork_of(old: Conversation, turns: int | None, title: str | None) -> Conversation:
    """A new conversation with the first turns of another one; None takes all, and its title.

    Raises:
        InvalidField: `turns`: it has fewer.
    """
    count = old.version if turns is None else turns
    if count > old.version:
        raise InvalidField("turns", f"the conversation has {old.version} turns, got {count}")
    now = utc_now()
    return Conversation(
        uuid.uuid4().hex,
        count,
        old.title if title is None else title,
        now,
        now,
        old.time_to_live_s,
        old.opening,
        old.turns[:count],
    )


def page_of(heads: Sequence[Head], limit: int) -> Page:
    """The first `limit` of these conversations, and the way to the others."""
    return Page(tuple(heads[:limit]), cursor_of(heads[limit - 1]) if len(heads) > limit else "")


def cursor_of(head: Head) -> str:
    """The token of the page that follows this conversation."""
    return base64.urlsafe_b64encode(f"{head.updated.timestamp()!r} {head.conversation_id}".encode()).decode()


def read_cursor(token: str) -> tuple[float, str]:
    """When the last conversation of the page before was changed, in seconds since the epoch, and its id.

    Raises:
        InvalidField: `token` is none that `cursor_of` made.
    """
    if not token:
        return math.inf, ""
    try:
        updated, _, conversation_id = base64.urlsafe_b64decode(token.encode()).decode().partition(" ")
        return float(updated), conversation_id
    except ValueError:
        raise InvalidField("page_token", "must be the next_page_token of an earlier page") from None


def unknown_conversation() -> NotFound:
    """What a store raises for a conversation that is not there, or not for this tenant."""
    return NotFound("there is no conversation of this id; it may have been deleted")


def too_many_conversations(most: int) -> FailedPrecondition:
    """What a store raises where a tenant has as many conversations as one may have."""
    return FailedPrecondition(
        f"there are {most} conversations, as many as one tenant may have; delete some of them",
        metadata={"limit": most},
    )


def other_version(expected: int, version: int) -> Conflict:
    """What a store raises for a turn that continues another version than there is."""
    return Conflict(
        "another turn of this conversation was stored meanwhile; fetch it and ask again",
        metadata={"expected_version": expected, "version": version},
    )
