"""Turns in the background, for the asynchronous client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from internvl.v1 import chat_service_pb2
from internvl_client.aio_stream import AsyncChatStream
from internvl_client.reattaching import AsyncReattachingCall
from internvl_client.turn_status import TurnStatus, read_status

if TYPE_CHECKING:
    from internvl_client.aio import AsyncClient


class AsyncTurn:
    """A turn that the server runs by itself.

    Attributes:
        turn_id: finds it again with `AsyncClient.turn`.
    """

    def __init__(self, client: AsyncClient, turn_id: str) -> None:
        self._client = client
        self.turn_id = turn_id

    async def poll(self) -> TurnStatus:
        """As `Turn.poll`."""
        request = chat_service_pb2.GetTurnRequest(turn_id=self.turn_id)
        return read_status(await self._client._call(self._client._stub.GetTurn, request))

    def attach(self, *, after: int = 0, timeout: float | None = None) -> AsyncChatStream:
        """As `Turn.attach`."""

        async def start() -> Any:
            limit_s = self._client._limit(timeout)
            return AsyncReattachingCall(None, self._client._attach, limit_s, self.turn_id, after)

        return AsyncChatStream(start)

    async def cancel(self) -> None:
        """As `Turn.cancel`."""
        request = chat_service_pb2.CancelTurnRequest(turn_id=self.turn_id)
        await self._client._call(self._client._stub.CancelTurn, request)
