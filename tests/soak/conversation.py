"""One Generate call as a client lives through it, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from typing import Any, NamedTuple

import grpc

from internvl.errors import ServingError
from internvl.rpc import error_from_rpc
from internvl.v1 import content_pb2, llm_service_pb2, llm_service_pb2_grpc
from tests.contract.llm_client import tile

Messages = llm_service_pb2.GenerateRequest

# What writing to a call that is over may raise.
_OVER = (grpc.aio.UsageError, grpc.aio.InternalError, grpc.aio.AioRpcError, asyncio.InvalidStateError)

# What grpc's own client says, and no server, where a deadline passes just as it starts to wait for an answer.
_LOCAL_RACE = "Internal error from Core"


class Ending(NamedTuple):
    """How a call ended.

    Attributes:
        results: `GenerateResult`s that came.
        reason: of the error, if the server named one.
    """

    code: grpc.StatusCode
    results: int
    reason: str | None = None


class Conversation:
    """A call that never raises what the server answers: it is over, and `ending` tells how."""

    def __init__(
        self,
        stub: llm_service_pb2_grpc.LlmServiceAsyncStub,
        opening: llm_service_pb2.GenerateOpen | None,
        timeout: float | None = None,
    ) -> None:
        self.tokens: dict[int, list[int]] = defaultdict(list)
        self._opening = opening
        self._call: Any = stub.Generate(timeout=timeout)
        self._results = 0
        self._error: ServingError | None = None
        self._is_over = False

    @property
    def has_status(self) -> bool:
        """Whether the call's status is here, with or without unread messages before it."""
        return bool(self._call.done())

    async def open(self) -> None:
        await self.write(Messages(open=self._opening))

    async def admitted(self) -> llm_service_pb2.Admitted | None:
        """Open, and wait for a place; None if there will be none."""
        await self.open()
        first = await self.read()
        assert first is None or first.HasField("admitted")
        return first.admitted if first else None

    async def send_tiles(self, admitted: llm_service_pb2.Admitted, most: int | None = None) -> None:
        """Send what is needed, or only some of it."""
        tiles = [
            tile(need.visual_id, index)
            for need in admitted.needed
            for index in range(need.first_tile, self._tiles_of(need.visual_id))
        ]
        await self.send(*tiles[:most])

    async def send(self, *tiles: content_pb2.Tile) -> None:
        for one in tiles:
            await self.write(Messages(tile=one))

    async def write(self, message: llm_service_pb2.GenerateRequest) -> None:
        if self._is_over:
            return
        with contextlib.suppress(*_OVER):  # reading tells why
            await self._call.write(message)

    async def half_close(self) -> None:
        if not self._is_over:
            with contextlib.suppress(*_OVER):
                await self._call.done_writing()

    async def read(self) -> llm_service_pb2.GenerateResponse | None:
        """The next message; None behind the last."""
        if self._is_over:
            return None
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            self._error = error_from_rpc(error, "language service")
            response = grpc.aio.EOF
        if response is grpc.aio.EOF:
            self._is_over = True
            return None
        assert not self._results, "a message behind the result"
        self._results += response.HasField("result")
        if response.HasField("delta"):
            self.tokens[response.delta.choice] += response.delta.token_ids
        return response

    async def read_tokens(self, count: int) -> None:
        """Read until the first answer has so many tokens."""
        while len(self.tokens[0]) < count and await self.read():
            pass

    async def rest(self) -> Ending:
        """Read to the end."""
        while await self.read():
            pass
        return await self.ending()

    async def cancel(self) -> Ending:
        self._call.cancel()
        self._is_over = True
        return await self.ending()

    async def ending(self) -> Ending:
        """The one status of the call."""
        code = await self._call.code()
        if code is grpc.StatusCode.INTERNAL and await self._call.details() == _LOCAL_RACE:
            return Ending(grpc.StatusCode.DEADLINE_EXCEEDED, self._results)
        return Ending(code, self._results, self._error.reason if self._error else None)

    def _tiles_of(self, visual_id: str) -> int:
        assert self._opening is not None
        return next(
            part.visual.tiles
            for message in self._opening.messages
            for part in message.parts
            if part.visual.visual_id == visual_id
        )


async def turns(count: int) -> None:
    """Let everybody else on the event loop have so many turns."""
    for _ in range(count):
        await asyncio.sleep(0)
