"""A resumable answer, read on where its stream broke: never a piece twice, none left out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol

import grpc

from internvl.v1 import chat_service_pb2
from internvl_client.errors import error_from_rpc

_MOST_ATTEMPTS = 8
_PAUSES_S = (0.1, 2.0)  # first and longest

Attach = Callable[[chat_service_pb2.AttachTurnRequest, float | None], Any]


class Call(Protocol):
    """A streaming call of gRPC, whose own type is private."""

    def __iter__(self) -> Iterator[chat_service_pb2.ChatResponse]: ...

    def cancel(self) -> object: ...


class _Progress:
    """How far a turn was read, and how often it may still be attached to without any."""

    def __init__(self, turn_id: str, after: int, limit_s: float | None) -> None:
        self.turn_id = turn_id
        self.after = after
        self._until = None if limit_s is None else time.monotonic() + limit_s
        self._attempts = 0

    @property
    def left_s(self) -> float | None:
        """What is left of the time for the whole answer."""
        return None if self._until is None else max(self._until - time.monotonic(), 0.0)

    def note(self, event: chat_service_pb2.ChatResponse) -> None:
        self.after = event.event_id
        self._attempts = 0
        if event.HasField("started"):
            self.turn_id = event.started.turn_id

    def request(self) -> chat_service_pb2.AttachTurnRequest:
        return chat_service_pb2.AttachTurnRequest(turn_id=self.turn_id, after_event_id=self.after)

    def pause_s(self, error: grpc.RpcError) -> float:
        """How long to wait before the next attempt.

        Raises:
            grpc.RpcError: `error`, if it is no loss of the connection, or there were too many.
        """
        lost = error.code() is grpc.StatusCode.UNAVAILABLE and not error_from_rpc(error).reason
        left = self.left_s
        if not (lost and self.turn_id) or self._attempts == _MOST_ATTEMPTS or left == 0:
            raise error
        self._attempts += 1
        first, most = _PAUSES_S
        pause = float(min(first * 2 ** (self._attempts - 1), most))
        return pause if left is None else min(pause, left)


class ReattachingCall:
    """Iterates over the events of one turn, over as many calls as it takes."""

    def __init__(
        self, call: Call | None, attach: Attach, limit_s: float | None, turn_id: str = "", after: int = 0
    ) -> None:
        """Begin with a `Chat` call, or with none to attach to a turn.

        Args:
            call: of a resumable turn.
            attach: makes an `AttachTurn` call, with the seconds that it may take.
            limit_s: seconds that all calls together may take.
            turn_id: of the turn to attach to.
            after: number of the last event that is not wanted.
        """
        self._attach = attach
        self._progress = _Progress(turn_id, after, limit_s)
        self._call: Any = call if call is not None else attach(self._progress.request(), limit_s)
        self._cancelled = False

    def __iter__(self) -> Iterator[chat_service_pb2.ChatResponse]:
        while True:
            try:
                for response in self._call:
                    event = event_of(response)
                    self._progress.note(event)
                    yield event
                return
            except grpc.RpcError as error:
                if self._cancelled:
                    raise
                time.sleep(self._progress.pause_s(error))
            self._call = self._attach(self._progress.request(), self._progress.left_s)

    def cancel(self) -> None:
        """Stop reading."""
        self._cancelled = True
        self._call.cancel()


class AsyncReattachingCall:
    """The same with `await`; it is read as a call of gRPC is."""

    def __init__(
        self, call: Any | None, attach: Attach, limit_s: float | None, turn_id: str = "", after: int = 0
    ) -> None:
        """As for `ReattachingCall`."""
        self._attach = attach
        self._progress = _Progress(turn_id, after, limit_s)
        self._call: Any = call if call is not None else attach(self._progress.request(), limit_s)
        self._cancelled = False

    async def read(self) -> Any:
        """The next event, or `grpc.aio.EOF`."""
        while True:
            try:
                response = await self._call.read()
            except grpc.RpcError as error:
                if self._cancelled:
                    raise
                await asyncio.sleep(self._progress.pause_s(error))
                self._call = self._attach(self._progress.request(), self._progress.left_s)
                continue
            if response is grpc.aio.EOF:
                return response
            event = event_of(response)
            self._progress.note(event)
            return event

    async def __aiter__(self) -> AsyncIterator[chat_service_pb2.ChatResponse]:
        while (event := await self.read()) is not grpc.aio.EOF:
            yield event

    def cancel(self) -> None:
        """Stop reading."""
        self._cancelled = True
        self._call.cancel()


def event_of(
    response: chat_service_pb2.ChatResponse | chat_service_pb2.AttachTurnResponse,
) -> chat_service_pb2.ChatResponse:
    """The event that either call brings."""
    return response.event if isinstance(response, chat_service_pb2.AttachTurnResponse) else response
