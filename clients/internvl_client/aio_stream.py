"""An answer as it is written, for the asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import grpc

from internvl.v1 import chat_service_pb2
from internvl_client.answer import Answer, Delta, Event
from internvl_client.answer_state import AnswerState
from internvl_client.errors import typed_errors

Call = grpc.aio.UnaryStreamCall[chat_service_pb2.ChatRequest, chat_service_pb2.ChatResponse]


class AsyncChatStream(AnswerState):
    """One answer as it is written: iterate for its text; it adds up meanwhile.

    The request is sent when the stream is first used. Leaving an `async with` block cancels an answer that is
    not complete.
    """

    def __init__(self, start: Callable[[], Awaitable[Call]]) -> None:
        super().__init__()
        self._start = start
        self._call: Call | None = None

    async def __aiter__(self) -> AsyncIterator[str]:
        """Pieces of the answer; of several, those of the first.

        Raises:
            InternVLError: whatever ends the answer early; what arrived stays in `text`.
        """
        async for event in self.events():
            if isinstance(event, Delta) and event.text and event.choice == 0:
                yield event.text

    async def events(self) -> AsyncIterator[Event]:
        """Everything that happens, text included; an `Answer` comes last.

        Raises:
            OSError: a file cannot be read.
            InternVLError: whatever ends the answer early; what arrived stays in `text`.
        """
        with self._ending_quietly(), typed_errors():
            while (response := await self._read()) is not None:
                event = self._add(response)
                if event is not None:
                    yield event

    async def result(self) -> Answer:
        """Wait for the complete answer.

        Raises:
            InternVLError: whatever ends it early.
        """
        async for _ in self.events():
            pass
        return self._finished()

    def cancel(self) -> None:
        """Stop the answer on all tiers; iteration ends. A complete answer stays as it is."""
        self._note_cancel()
        if self._call is not None:
            self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    async def _read(self) -> chat_service_pb2.ChatResponse | None:
        if self._cancelled:
            return None
        if self._call is None:
            self._call = await self._start()
        try:
            response: Any = await self._call.read()
        except asyncio.CancelledError:
            # gRPC raises this for `cancel` as well as for the cancellation of our own task.
            if self._cancelled:
                return None
            raise
        return None if response is grpc.aio.EOF else response
