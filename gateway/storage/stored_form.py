"""Turns as bytes: the messages of the contract, so that what is stored is as versioned as they are."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.content import Message
from gateway.storage.conversation_wire import turn_from_proto, turn_to_proto
from gateway.storage.conversations import StoredTurn
from gateway.wire import message_from_proto, message_to_proto
from internvl.v1 import chat_service_pb2


def encode_opening(messages: Sequence[Message]) -> bytes:
    """The messages that a conversation begins with."""
    return chat_service_pb2.Conversation(messages=map(message_to_proto, messages)).SerializeToString()


def decode_opening(blob: bytes) -> tuple[Message, ...]:
    """What `encode_opening` wrote."""
    opening = chat_service_pb2.Conversation.FromString(blob)
    return tuple(map(message_from_proto, opening.messages))


def encode_turn(turn: StoredTurn) -> bytes:
    """One turn: its messages and its record."""
    messages = map(message_to_proto, turn.messages)
    return chat_service_pb2.Conversation(
        messages=messages, turns=[turn_to_proto(turn, 0)]
    ).SerializeToString()


def decode_turn(blob: bytes) -> StoredTurn:
    """What `encode_turn` wrote."""
    stored = chat_service_pb2.Conversation.FromString(blob)
    return turn_from_proto(stored.turns[0], tuple(map(message_from_proto, stored.messages)))
