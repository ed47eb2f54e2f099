"""The two model tiers as the gateway sees them. Tiles pass through here as the bytes they arrived in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar, cast

import grpc

from gateway.content import ImageOptions, Layout, MediaOptions
from gateway.wire import image_options_to_proto, layout_from_proto, video_options_to_proto
from internvl.errors import InternalError
from internvl.rpc import error_from_rpc
from internvl.v1 import llm_service_pb2, llm_service_pb2_grpc, vision_service_pb2, vision_service_pb2_grpc

VISION, LLM = "vision service", "language service"

_CHUNK_BYTES = 2**20
_VISION_NAME = vision_service_pb2.DESCRIPTOR.services_by_name["VisionService"].full_name
_LLM_NAME = llm_service_pb2.DESCRIPTOR.services_by_name["LlmService"].full_name

# First byte of a serialised EncodeResponse whose `tile` is set: field 2, length-delimited. The contract keeps
# the number for good, and a GenerateRequest begins its `tile` with the same byte.
_TILE_TAG = bytes([vision_service_pb2.EncodeResponse.TILE_FIELD_NUMBER << 3 | 2])

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the client stops waiting.

    Attributes:
        at: on the monotonic clock, in seconds; None if it waits for ever.
    """

    at: float | None

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """The deadline that many seconds from now."""
        return cls(None if seconds is None else time.monotonic() + seconds)

    @property
    def remaining_s(self) -> float | None:
        """What is left of it: the timeout of the next call to a tier."""
        return None if self.at is None else max(0.0, self.at - time.monotonic())


class VisionBackend:
    """The vision tier."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: vision_service_pb2_grpc.VisionServiceAsyncStub = (
            vision_service_pb2_grpc.VisionServiceStub(channel)
        )
        self._encode: grpc.aio.StreamStreamMultiCallable[Any, Any] = channel.stream_stream(
            f"/{_VISION_NAME}/Encode",
            request_serializer=vision_service_pb2.EncodeRequest.SerializeToString,
            response_deserializer=None,  # frames stay bytes
        )

    @asynccontextmanager
    async def encode(
        self, file: BinaryIO, options: MediaOptions, first_tile: int, deadline: Deadline
    ) -> AsyncIterator[EncodeStream]:
        """Encode a stored file from `first_tile` on. Leaving the block cancels what is still running."""
        requests = _encode_requests(file, options, first_tile)
        stream = self._encode(requests, timeout=deadline.remaining_s)
        try:
            yield EncodeStream(stream)
        finally:
            stream.cancel()
            await requests.aclose()

    async def inspect(self, file: BinaryIO, deadline: Deadline) -> vision_service_pb2.InspectResponse:
        """What a stored file is.

        Raises:
            ServingError: whatever the vision tier answers.
        """
        return await _answer(
            self._stub.Inspect(_inspect_requests(file), timeout=deadline.remaining_s), VISION
        )

    async def plan(
        self, items: Sequence[vision_service_pb2.PlanItem], deadline: Deadline
    ) -> vision_service_pb2.PlanResponse:
        """Layouts from sizes alone.

        Raises:
            ServingError: whatever the vision tier answers.
        """
        request = vision_service_pb2.PlanRequest(items=items)
        return await _answer(self._stub.Plan(request, timeout=deadline.remaining_s), VISION)

    async def info(self, deadline: Deadline) -> vision_service_pb2.EncoderInfoResponse:
        """The loaded encoder."""
        request = vision_service_pb2.EncoderInfoRequest()
        return await _answer(self._stub.EncoderInfo(request, timeout=deadline.remaining_s), VISION)


class EncodeStream:
    """One item on its way through the vision tier: first its layout, then its tiles."""

    def __init__(self, call: grpc.aio.StreamStreamCall[Any, bytes]) -> None:
        self._call = call

    async def layout(self) -> Layout:
        """The first message.

        Raises:
            ServingError: whatever the vision tier answers.
        """
        frame = await _read(self._call, VISION)
        response = vision_service_pb2.EncodeResponse.FromString(frame or b"")
        if not response.HasField("layout"):
            raise InternalError(f"the {VISION} did not begin with a layout")
        return layout_from_proto(response.layout)

    async def tiles(self) -> AsyncIterator[bytes]:
        """The serialised frames of the tiles, in order, never decoded.

        Raises:
            ServingError: whatever the vision tier answers.
        """
        while (frame := await _read(self._call, VISION)) is not None:
            if frame.startswith(_TILE_TAG):
                yield frame

    def cancel(self) -> None:
        """Stop the vision tier's work."""
        self._call.cancel()


class LlmBackend:
    """The language tier."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: llm_service_pb2_grpc.LlmServiceAsyncStub = llm_service_pb2_grpc.LlmServiceStub(channel)
        self._generate: grpc.aio.StreamStreamMultiCallable[Any, Any] = channel.stream_stream(
            f"/{_LLM_NAME}/Generate",
            request_serializer=None,  # frames are bytes already
            response_deserializer=llm_service_pb2.GenerateResponse.FromString,
        )

    @asynccontextmanager
    async def generate(
        self, open_message: llm_service_pb2.GenerateOpen, deadline: Deadline
    ) -> AsyncIterator[GenerateStream]:
        """Open a generation. Leaving the block cancels what is still running."""
        stream = self._generate(timeout=deadline.remaining_s)
        try:
            generation = GenerateStream(stream)
            await generation.send(llm_service_pb2.GenerateRequest(open=open_message).SerializeToString())
            yield generation
        finally:
            stream.cancel()

    async def count_tokens(
        self, request: llm_service_pb2.CountTokensRequest, deadline: Deadline
    ) -> llm_service_pb2.CountTokensResponse:
        """Count a prompt.

        Raises:
            ServingError: whatever the language tier answers.
        """
        return await _answer(self._stub.CountTokens(request, timeout=deadline.remaining_s), LLM)

    async def info(self, deadline: Deadline) -> llm_service_pb2.ModelInfoResponse:
        """The loaded model."""
        request = llm_service_pb2.ModelInfoRequest()
        return await _answer(self._stub.ModelInfo(request, timeout=deadline.remaining_s), LLM)


class GenerateStream:
    """One answer in the making."""

    def __init__(self, call: grpc.aio.StreamStreamCall[bytes, llm_service_pb2.GenerateResponse]) -> None:
        self._call = call

    async def send(self, frame: bytes) -> bool:
        """Send a serialised frame; False if the call has ended, and reading tells why."""
        try:
            await self._call.write(frame)
        except (grpc.RpcError, asyncio.InvalidStateError):
            return False
        return True

    async def done_sending(self) -> None:
        """Say that no tile follows."""
        if not self._call.done():
            await self._call.done_writing()

    async def admitted(self) -> llm_service_pb2.Admitted:
        """The first message.

        Raises:
            ServingError: whatever the language tier answers.
        """
        response = await _read(self._call, LLM)
        if response is None or not response.HasField("admitted"):
            raise InternalError(f"the {LLM} did not begin with `admitted`")
        return response.admitted

    async def responses(self) -> AsyncIterator[llm_service_pb2.GenerateResponse]:
        """Deltas, then the result.

        Raises:
            ServingError: whatever the language tier answers.
        """
        while (response := await _read(self._call, LLM)) is not None:
            yield response


async def _read(call: grpc.aio.StreamStreamCall[Any, T], peer: str) -> T | None:
    """The next message; None at the end of a successful stream."""
    try:
        message = await call.read()
    except grpc.RpcError as error:
        raise error_from_rpc(error, peer) from error
    return None if message is grpc.aio.EOF else cast(T, message)


async def _answer(call: Awaitable[T], peer: str) -> T:
    try:
        return await call
    except grpc.RpcError as error:
        raise error_from_rpc(error, peer) from error


async def _encode_requests(
    file: BinaryIO, options: MediaOptions, first_tile: int
) -> AsyncGenerator[vision_service_pb2.EncodeRequest]:
    opening = vision_service_pb2.EncodeOpen(size_bytes=_length(file))
    if first_tile:
        opening.first_tile = first_tile
    if isinstance(options, ImageOptions):
        opening.image.CopyFrom(image_options_to_proto(options))
    else:
        opening.video.CopyFrom(video_options_to_proto(options))
    yield vision_service_pb2.EncodeRequest(open=opening)
    async for chunk in _chunks(file):
        yield vision_service_pb2.EncodeRequest(chunk=chunk)


async def _inspect_requests(file: BinaryIO) -> AsyncIterator[vision_service_pb2.InspectRequest]:
    async for chunk in _chunks(file):
        yield vision_service_pb2.InspectRequest(chunk=chunk)


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
        yield chunk


def _length(file: BinaryIO) -> int:
    length = file.seek(0, 2)
    file.seek(0)
    return length
