"""Conversations in public form, and the records of their turns back from it."""

from __future__ import annotations

import datetime

from gateway.answer import Usage
from gateway.content import Message
from gateway.events import usage_to_proto
from gateway.storage.conversations import Conversation, Head, StoredTurn, TurnOutcome
from gateway.wire import message_to_proto
from internvl.v1 import chat_service_pb2

_OUTCOMES = {
    TurnOutcome.STOP: chat_service_pb2.TURN_OUTCOME_STOP,
    TurnOutcome.LENGTH: chat_service_pb2.TURN_OUTCOME_LENGTH,
    TurnOutcome.CANCELLED: chat_service_pb2.TURN_OUTCOME_CANCELLED,
    TurnOutcome.ERROR: chat_service_pb2.TURN_OUTCOME_ERROR,
}
_OUTCOME_OF = {number: outcome for outcome, number in _OUTCOMES.items()}


def head_to_proto(head: Head) -> chat_service_pb2.Conversation:
    """A conversation without its messages."""
    public = chat_service_pb2.Conversation(
        conversation_id=head.conversation_id, version=head.version, title=head.title
    )
    public.create_time.FromDatetime(head.created)
    public.update_time.FromDatetime(head.updated)
    if head.expires is not None:
        public.expire_time.FromDatetime(head.expires)
    return public


def conversation_to_proto(conversation: Conversation) -> chat_service_pb2.Conversation:
    """A conversation with its messages and how each of its turns ended."""
    public = head_to_proto(conversation)
    public.messages.extend(map(message_to_proto, conversation.messages))
    public.turns.extend(turn_to_proto(turn, number) for number, turn in enumerate(conversation.turns, 1))
    return public


def turn_to_proto(turn: StoredTurn, version: int) -> chat_service_pb2.TurnRecord:
    """The record of a turn; `version` is the one it made."""
    record = chat_service_pb2.TurnRecord(
        version=version,
        messages=len(turn.messages),
        outcome=_OUTCOMES[turn.outcome],
        usage=None if turn.usage is None else usage_to_proto(turn.usage),
        idempotency_key=turn.key,
        turn_id=turn.turn_id,
    )
    record.create_time.FromDatetime(turn.created)
    return record


def turn_from_proto(record: chat_service_pb2.TurnRecord, messages: tuple[Message, ...]) -> StoredTurn:
    """A turn from the record that `turn_to_proto` made, and its messages."""
    usage = record.usage
    return StoredTurn(
        turn_id=record.turn_id,
        messages=messages,
        outcome=_OUTCOME_OF[record.outcome],
        usage=Usage(
            prompt_tokens=usage.prompt_tokens,
            visual_tokens=usage.visual_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens,
        )
        if record.HasField("usage")
        else None,
        key=record.idempotency_key if record.HasField("idempotency_key") else None,
        created=record.create_time.ToDatetime(datetime.UTC),
    )
