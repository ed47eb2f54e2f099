"""The vision tier as the gateway sees it. Tiles pass through here as the bytes they arrived in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any, BinaryIO

import grpc

from gateway.content import ImageOptions, Layout, Media, MediaOptions
from gateway.tiers.replica import Replica
from gateway.tiers.replicas import Replicas
from gateway.tiers.tier_calls import CallTerms, answered, leased, next_message
from gateway.wire import (
    image_options,
    image_options_to_proto,
    layout_from_proto,
    video_options,
    video_options_to_proto,
)
from internvl.errors import BadMedia, InternalError
from internvl.v1 import content_pb2, vision_service_pb2, vision_service_pb2_grpc

PEER = "vision service"
_SERVICE = vision_service_pb2.DESCRIPTOR.services_by_name["VisionService"].full_name
_CHUNK_BYTES = 2**20

# First byte of a serialised EncodeResponse whose `tile` is set: field 2, length-delimited. The contract keeps
# the number for good, and a GenerateRequest begins its `tile` with the same byte.
_TILE_TAG = bytes([vision_service_pb2.EncodeResponse.TILE_FIELD_NUMBER << 3 | 2])


class VisionCalls:
    """The calls of one replica."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub: vision_service_pb2_grpc.VisionServiceAsyncStub = vision_service_pb2_grpc.VisionServiceStub(
            channel
        )
        self.encode: grpc.aio.StreamStreamMultiCallable[Any, Any] = channel.stream_stream(
            f"/{_SERVICE}/Encode",
            request_serializer=vision_service_pb2.EncodeRequest.SerializeToString,
            response_deserializer=None,  # frames stay bytes
        )


class VisionBackend:
    """The vision tier. Every call raises `ServingError` with what the tier answered."""

    def __init__(self, replicas: Replicas[VisionCalls]) -> None:
        self._replicas = replicas

    @asynccontextmanager
    async def encode(
        self, file: BinaryIO, media: Media, first_tile: int, terms: CallTerms
    ) -> AsyncIterator[EncodeStream]:
        """Encode a stored file from `first_tile` on. Leaving the block cancels what is still running.

        Raises:
            ReplicaLost: the replica went away; another one can go on.
        """
        requests = _encode_requests(file, media.options, first_tile)
        async with leased(self._replicas, media.media_id.encode(), terms) as replica:
            call = replica.calls.encode(requests, timeout=terms.deadline.next_hop_s)
            try:
                yield EncodeStream(call, replica)
            finally:
                call.cancel()

    async def inspect(
        self, file: BinaryIO, media_id: str, terms: CallTerms
    ) -> vision_service_pb2.InspectResponse:
        """What a stored file is; the contract's own message, because the public answer carries it on."""

        def ask(calls: VisionCalls, timeout: float | None) -> Awaitable[vision_service_pb2.InspectResponse]:
            file.seek(0)
            return calls.stub.Inspect(_inspect_requests(file), timeout=timeout)

        return await answered(self._replicas, media_id.encode(), terms, ask)

    async def plan(self, file: BinaryIO, media: Media, terms: CallTerms) -> Layout:
        """The layout that encoding a stored file would give, without its `visual_id`.

        Raises:
            BadMedia: a film where a picture was announced or the reverse, as `encode` would.
        """
        info = await self.inspect(file, media.media_id, terms)
        _check_kind(info, media.options)
        request = vision_service_pb2.PlanRequest(items=[_plan_item(info, media.options)])
        (layout,) = (await self._plan(request, media.media_id.encode(), terms)).layouts
        return layout_from_proto(layout)

    async def reduce(
        self,
        media: Sequence[Media],
        infos: Sequence[vision_service_pb2.InspectResponse],
        tile_budget: int,
        terms: CallTerms,
    ) -> list[Media]:
        """The items with options by which they make at most `tile_budget` tiles together.

        Raises:
            InvalidField: not even one tile for each of them.
        """
        items = [_plan_item(info, each.options) for each, info in zip(media, infos, strict=True)]
        request = vision_service_pb2.PlanRequest(items=items, tile_budget=tile_budget)
        planned = await self._plan(request, b"", terms)
        if not planned.reduced:
            return list(media)
        return [
            Media(each.media_id, _options_of(layout) or each.options)
            for each, layout in zip(media, planned.layouts, strict=True)
        ]

    async def _plan(
        self, request: vision_service_pb2.PlanRequest, key: bytes, terms: CallTerms
    ) -> vision_service_pb2.PlanResponse:
        response = await answered(
            self._replicas, key, terms, lambda calls, timeout: calls.stub.Plan(request, timeout=timeout)
        )
        if len(response.layouts) != len(request.items):
            raise InternalError(f"the {PEER} planned {len(response.layouts)} of {len(request.items)} items")
        return response

    async def info(self, terms: CallTerms) -> vision_service_pb2.EncoderInfoResponse:
        """The loaded encoder; the contract's own message, because the public answer carries it on."""
        request = vision_service_pb2.EncoderInfoRequest()
        return await answered(
            self._replicas,
            b"",
            terms,
            lambda calls, timeout: calls.stub.EncoderInfo(request, timeout=timeout),
        )


class EncodeStream:
    """One item on its way through the vision tier: first its layout, then its tiles."""

    def __init__(self, call: grpc.aio.StreamStreamCall[Any, bytes], replica: Replica[VisionCalls]) -> None:
        self._call = call
        self._replica = replica

    async def layout(self) -> Layout:
        """The first message."""
        frame = await next_message(self._call, self._replica)
        response = vision_service_pb2.EncodeResponse.FromString(frame or b"")
        if not response.HasField("layout"):
            raise InternalError(f"the {PEER} did not begin with a layout")
        return layout_from_proto(response.layout)

    async def tiles(self) -> AsyncIterator[bytes]:
        """The serialised frames of the tiles, in order, never decoded."""
        while (frame := await next_message(self._call, self._replica)) is not None:
            if frame.startswith(_TILE_TAG):
                yield frame

    def cancel(self) -> None:
        """Stop the vision tier's work."""
        self._call.cancel()


def _plan_item(
    info: vision_service_pb2.InspectResponse, options: MediaOptions
) -> vision_service_pb2.PlanItem:
    item = vision_service_pb2.PlanItem(width=info.width, height=info.height)
    if isinstance(options, ImageOptions):
        item.image.CopyFrom(image_options_to_proto(options))
    else:
        item.video.CopyFrom(video_options_to_proto(options))
    return item


def _options_of(layout: content_pb2.VisualLayout) -> MediaOptions | None:
    """The options that a layout was made with, if it says so."""
    match layout.WhichOneof("options"):
        case "image_options":
            return image_options(layout.image_options)
        case "video_options":
            return video_options(layout.video_options)
        case _:
            return None


def _check_kind(info: vision_service_pb2.InspectResponse, options: MediaOptions) -> None:
    is_film = info.kind == content_pb2.MEDIA_KIND_VIDEO
    if is_film is isinstance(options, ImageOptions):
        expected, found = ("picture", "film") if is_film else ("film", "picture")
        raise BadMedia("chunk", f"expected a {expected}, found a {found} ({info.media_type})")


async def _encode_requests(
    file: BinaryIO, options: MediaOptions, first_tile: int
) -> AsyncIterator[vision_service_pb2.EncodeRequest]:
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
