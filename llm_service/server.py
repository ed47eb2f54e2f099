"""The language service on the wire: streams in and out, the work in between done by the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc

from internvl.errors import InternalError, InvalidField, ServingError
from internvl.rpc.request_stream import RequestStream
from internvl.telemetry import get_logger
from internvl.v1 import llm_service_pb2, llm_service_pb2_grpc
from llm_service.engine.events import Admitted
from llm_service.engine.request import Request
from llm_service.engine.thread import EngineThread
from llm_service.requests import Opened, RequestReader
from llm_service.responses import ResponseWriter
from llm_service.tiles import TileIntake

SERVICE_NAME = llm_service_pb2.DESCRIPTOR.services_by_name["LlmService"].full_name

_log = get_logger("llm")

_GOODBYE_S = 0.1

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Incoming: TypeAlias = RequestStream[llm_service_pb2.GenerateRequest]


class LlmService(llm_service_pb2_grpc.LlmServiceServicer):
    """The three calls of `internvl.v1.LlmService`."""

    def __init__(
        self,
        engine: EngineThread,
        reader: RequestReader,
        writer: ResponseWriter,
        info: llm_service_pb2.ModelInfoResponse,
    ) -> None:
        self._engine = engine
        self._reader = reader
        self._writer = writer
        self._info = info

    async def Generate(  # type: ignore[override]  # the interceptor makes every stream of requests one
        self, request_iterator: Incoming, context: Context
    ) -> AsyncIterator[llm_service_pb2.GenerateResponse]:
        opened = await self._open(request_iterator, context)
        request = opened.request
        over = asyncio.Event()

        def end(_: Any) -> None:
            over.set()
            self._engine.cancel(request)

        # A write to a client that has gone ends this generator without a word; the call's end always speaks.
        context.add_done_callback(end)  # type: ignore[arg-type]
        with self._engine.generate(request) as stream:
            async with self._taking_tiles(request_iterator, opened, over) as take_tiles:
                async for event in stream:
                    if isinstance(event, Admitted):
                        take_tiles(event)
                    yield await self._writer.write(event, opened)

    async def CountTokens(
        self, request: llm_service_pb2.CountTokensRequest, context: Context
    ) -> llm_service_pb2.CountTokensResponse:
        counted = await asyncio.to_thread(self._reader.read_count, request)
        return self._writer.count(counted, await self._engine.estimate(counted))

    async def ModelInfo(
        self, request: llm_service_pb2.ModelInfoRequest, context: Context
    ) -> llm_service_pb2.ModelInfoResponse:
        return self._info

    async def _open(self, incoming: Incoming, context: Context) -> Opened:
        first = await anext(incoming, None)
        if first is None or not first.HasField("open"):
            raise InvalidField("open", "must be the first message")
        incoming.quiet = True  # until it is told which tiles to send
        now, remaining_s = time.monotonic(), context.time_remaining()
        deadline = None if remaining_s is None else now + remaining_s
        # In a thread, because long texts take long and everybody's streams live on this event loop.
        return await asyncio.to_thread(self._reader.read_open, first.open, now, deadline)

    @asynccontextmanager
    async def _taking_tiles(
        self, incoming: Incoming, opened: Opened, over: asyncio.Event
    ) -> AsyncIterator[Callable[[Admitted], None]]:
        """Inside the block, take tiles beside the answer from when the engine admits the request."""
        tasks: list[asyncio.Task[None]] = []

        def start(admitted: Admitted) -> None:
            incoming.quiet = not admitted.needed
            intake = self._reader.tile_intake(opened, admitted)
            tasks.append(asyncio.create_task(self._take_tiles(incoming, intake, opened.request, over)))

        try:
            yield start
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _take_tiles(
        self, incoming: Incoming, intake: TileIntake, request: Request, over: asyncio.Event
    ) -> None:
        """Pass tiles on to the engine; one that is wrong or missing fails the request.

        Args:
            over: is set when the call ends. A client that goes away ends `incoming` like one that closes it,
                a moment before its call ends.
        """
        try:
            async for message in incoming:
                if not message.HasField("tile"):
                    raise InvalidField("open", "must be the first message and no other")
                tile, embeddings = intake.take(message.tile)
                self._engine.send_tile(request, tile, embeddings)
            if not intake.is_complete and not await _happens(over, within_s=_GOODBYE_S):
                intake.check_complete()
        except ServingError as error:
            self._engine.fail(request, error)
        except Exception:
            _log.error("reading tiles failed", request=request.request_id, exc_info=True)
            self._engine.fail(request, InternalError("the server failed; its log has the details"))


async def _happens(event: asyncio.Event, within_s: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), within_s)
    except TimeoutError:
        return False
    return True
