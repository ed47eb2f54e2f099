"""An answer as an idempotency key keeps it: the events of its turn, with the pieces of each answer joined."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import DecodeError

from internvl.errors import InternalError
from internvl.v1 import chat_service_pb2, llm_service_pb2

_LENGTH_BYTES = 4


class AnswerRecord:
    """Takes down the events of one turn."""

    def __init__(self) -> None:
        self._started = chat_service_pb2.ChatResponse()
        self._texts: dict[int, list[str]] = {}
        self._deltas: dict[int, llm_service_pb2.TokenDelta] = {}

    def add(self, event: chat_service_pb2.ChatResponse) -> None:
        """Take down one event. How encoding went on is not part of the answer."""
        if event.HasField("started"):
            self._started.CopyFrom(event)
        elif event.HasField("delta"):
            choice = event.delta.choice
            self._texts.setdefault(choice, []).append(event.delta.text)
            self._deltas.setdefault(choice, llm_service_pb2.TokenDelta()).MergeFrom(event.delta)

    def to_bytes(self, result: chat_service_pb2.ChatResponse) -> bytes:
        """The record of a turn that ended with `result`."""
        events = [self._started]
        for choice, delta in sorted(self._deltas.items()):
            delta.text = "".join(self._texts[choice])
            events.append(chat_service_pb2.ChatResponse(delta=delta))
        encoded = [event.SerializeToString() for event in (*events, result)]
        return b"".join(len(event).to_bytes(_LENGTH_BYTES, "big") + event for event in encoded)


def recorded_events(record: bytes) -> Iterator[chat_service_pb2.ChatResponse]:
    """The events of a record, without their numbers.

    Raises:
        InternalError: it is no record.
    """
    position = 0
    while position < len(record):
        start = position + _LENGTH_BYTES
        position = start + int.from_bytes(record[position:start], "big")
        try:
            event = chat_service_pb2.ChatResponse.FromString(record[start:position])
        except DecodeError:
            raise InternalError("the answer kept for this idempotency key cannot be read") from None
        event.ClearField("event_id")
        yield event
