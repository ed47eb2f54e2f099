"""Turns in the background, for the synchronous client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from internvl.v1 import chat_service_pb2
from internvl_client.reattaching import ReattachingCall
from internvl_client.stream import ChatStream
from internvl_client.turn_status import TurnStatus, read_status

if TYPE_CHECKING:
    from internvl_client.client import Client


class Turn:
    """A turn that the server runs by itself.

    Attributes:
        turn_id: finds it again with `Client.turn`.
    """

    def __init__(self, client: Client, turn_id: str) -> None:
        self._client = client
        self.turn_id = turn_id

    def poll(self) -> TurnStatus:
        """How far it has come.

        Raises:
            InternVLError: whatever the server answers.
        """
        request = chat_service_pb2.GetTurnRequest(turn_id=self.turn_id)
        return read_status(self._client._call(self._client._stub.GetTurn, request))

    def attach(self, *, after: int = 0, timeout: float | None = None) -> ChatStream:
        """Read its answer, from the beginning or behind an event; cancelling the stream only stops reading.

        Args:
            after: number of the last event that is not wanted.
            timeout: seconds; None for the client's own.
        """
        limit_s = self._client._limit(timeout)
        return ChatStream(ReattachingCall(None, self._client._attach, limit_s, self.turn_id, after))

    def cancel(self) -> None:
        """End it; what it said so far stays in its conversation.

        Raises:
            InternVLError: whatever the server answers.
        """
        request = chat_service_pb2.CancelTurnRequest(turn_id=self.turn_id)
        self._client._call(self._client._stub.CancelTurn, request)
