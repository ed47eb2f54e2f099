"""What the server tells of a conversation, and what it is asked."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Literal

from internvl.v1 import chat_service_pb2
from internvl_client.answer import Usage
from internvl_client.options import ConversationOptions
from internvl_client.responses import read_usage

TurnOutcome = Literal["stop", "length", "cancelled", "error", "other"]

_OUTCOMES: dict[int, TurnOutcome] = {
    chat_service_pb2.TURN_OUTCOME_STOP: "stop",
    chat_service_pb2.TURN_OUTCOME_LENGTH: "length",
    chat_service_pb2.TURN_OUTCOME_CANCELLED: "cancelled",
    chat_service_pb2.TURN_OUTCOME_ERROR: "error",
}


@dataclass(frozen=True, slots=True)
class ConversationInfo:
    """A conversation that the server keeps, without its messages.

    Attributes:
        conversation_id: finds it again.
        version: number of its turns.
        title: for people.
        created: when it was created, in UTC.
        updated: when it was last changed, in UTC.
        expires: when it will be forgotten if nothing changes it; None for never.
    """

    conversation_id: str
    version: int
    title: str
    created: datetime.datetime
    updated: datetime.datetime
    expires: datetime.datetime | None


@dataclass(frozen=True, slots=True)
class TurnInfo:
    """A turn of a conversation.

    Attributes:
        turn_id: its name.
        version: of the conversation behind it.
        messages: number of the conversation's messages that belong to it; the last is the answer.
        outcome: how its answer ended. `cancelled` and `error` leave what had been said by then.
        usage: what was counted; None where the answer ended before.
        idempotency_key: as it was asked with, if it was.
        created: when it was stored, in UTC.
    """

    turn_id: str
    version: int
    messages: int
    outcome: TurnOutcome
    usage: Usage | None
    idempotency_key: str | None
    created: datetime.datetime


def read_conversation(conversation: chat_service_pb2.Conversation) -> ConversationInfo:
    """A conversation in the client's own form."""
    return ConversationInfo(
        conversation_id=conversation.conversation_id,
        version=conversation.version,
        title=conversation.title,
        created=conversation.create_time.ToDatetime(datetime.UTC),
        updated=conversation.update_time.ToDatetime(datetime.UTC),
        expires=conversation.expire_time.ToDatetime(datetime.UTC)
        if conversation.HasField("expire_time")
        else None,
    )


def read_turn(turn: chat_service_pb2.TurnRecord) -> TurnInfo:
    """A turn in the client's own form."""
    return TurnInfo(
        turn_id=turn.turn_id,
        version=turn.version,
        messages=turn.messages,
        outcome=_OUTCOMES.get(turn.outcome, "other"),
        usage=read_usage(turn.usage) if turn.HasField("usage") else None,
        idempotency_key=turn.idempotency_key if turn.HasField("idempotency_key") else None,
        created=turn.create_time.ToDatetime(datetime.UTC),
    )


def create_request(options: ConversationOptions) -> chat_service_pb2.CreateConversationRequest:
    """Asks for a new conversation."""
    request = chat_service_pb2.CreateConversationRequest(
        system_text=options.get("system"), title=options.get("title")
    )
    time_to_live_s = options.get("time_to_live_s")
    if time_to_live_s is not None:
        request.time_to_live.FromNanoseconds(round(time_to_live_s * 1e9))
    return request


def update_request(
    conversation_id: str, title: str | None, time_to_live_s: float | None
) -> chat_service_pb2.UpdateConversationRequest:
    """Asks for another name or another time to live."""
    request = chat_service_pb2.UpdateConversationRequest(conversation_id=conversation_id, title=title)
    if time_to_live_s is not None:
        request.time_to_live.FromNanoseconds(round(time_to_live_s * 1e9))
    return request
