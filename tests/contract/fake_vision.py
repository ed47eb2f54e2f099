"""A vision tier that follows the contract and computes nothing."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from internvl.errors import BadMedia, InvalidField, ServingError
from internvl.v1 import (
    content_pb2,
    vision_service_pb2,
    vision_service_pb2_grpc,
)

TILE_BYTES = 64 * 1024
TOKENS_PER_TILE = 16

Context = grpc.aio.ServicerContext[Any, Any]


def picture(tiles: int, name: str = "picture") -> bytes:
    """A file that the vision stand-in makes this many tiles of."""
    return f"{tiles} {name}".encode()


class FakeVision(vision_service_pb2_grpc.VisionServiceServicer):
    """Encodes `picture` files.

    Attributes:
        encoded: `(file, first_tile)` of every Encode.
        frames: every tile sent, serialised.
        active: Encode and Inspect calls under way.
        most_active: the most there ever were.
        reading: cleared, it takes no files.
        gate: cleared, it holds tiles back.
        model: part of every visual id.
        hold_at: tile number at which it stops for good.
        fail_at: tile number at which `failure` is raised.
    """

    def __init__(self) -> None:
        self.encoded: list[tuple[bytes, int]] = []
        self.inspected: list[bytes] = []
        self.frames: list[bytes] = []
        self.active = self.most_active = 0
        self.idle = asyncio.Event()
        self.reading = asyncio.Event()
        self.reading.set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.model = "encoder-1"
        self.hold_at: int | None = None
        self.fail_at: int | None = None
        self.failure: ServingError = BadMedia("chunk", "the picture is damaged or cut short")

    async def Encode(
        self, request_iterator: AsyncIterator[vision_service_pb2.EncodeRequest], context: Context
    ) -> AsyncIterator[vision_service_pb2.EncodeResponse]:
        with self._active():
            async for response in self._encode(request_iterator):
                yield response

    async def _encode(
        self, requests: AsyncIterator[vision_service_pb2.EncodeRequest]
    ) -> AsyncIterator[vision_service_pb2.EncodeResponse]:
        opening = (await anext(requests)).open
        await self.reading.wait()
        file = b"".join([request.chunk async for request in requests])
        self.encoded.append((file, opening.first_tile))
        if opening.size_bytes != len(file):
            raise InvalidField("open.size_bytes", "does not match the file")
        if opening.image.HasField("max_tiles") and not opening.image.max_tiles:
            raise InvalidField("open.image.max_tiles", "must be at least 1, got 0")
        layout = self._layout(file, opening)
        yield vision_service_pb2.EncodeResponse(layout=layout)
        for index in range(opening.first_tile, layout.tiles):
            await self.gate.wait()
            if index == self.hold_at:
                await asyncio.Event().wait()
            if index == self.fail_at:
                raise self.failure
            tile = content_pb2.Tile(visual_id=layout.visual_id, index=index)
            tile.embeddings.data = hashlib.sha256(f"{layout.visual_id} {index}".encode()).digest() * (
                TILE_BYTES // 32
            )
            response = vision_service_pb2.EncodeResponse(tile=tile)
            self.frames.append(response.SerializeToString())
            yield response
        summary = vision_service_pb2.EncodeSummary(tiles=layout.tiles - opening.first_tile)
        yield vision_service_pb2.EncodeResponse(summary=summary)

    async def Plan(
        self, request: vision_service_pb2.PlanRequest, context: Context
    ) -> vision_service_pb2.PlanResponse:
        for number, item in enumerate(request.items):
            if item.image.HasField("max_tiles") and not item.image.max_tiles:
                raise InvalidField(f"items[{number}].image.max_tiles", "must be at least 1, got 0")
        each = request.tile_budget // len(request.items) if request.HasField("tile_budget") else 1000
        if not each:
            raise InvalidField("tile_budget", f"must be at least {len(request.items)}")
        wanted = [
            min(item.width, item.image.max_tiles) if item.image.HasField("max_tiles") else item.width
            for item in request.items
        ]
        layouts = [
            content_pb2.VisualLayout(
                tiles=min(tiles, each),
                tokens_per_tile=TOKENS_PER_TILE,
                image_options=content_pb2.ImageOptions(max_tiles=min(tiles, each)),
            )
            for tiles in wanted
        ]
        return vision_service_pb2.PlanResponse(
            reduced=any(tiles > each for tiles in wanted),
            layouts=layouts,
            visual_tokens=sum(layout.tiles * TOKENS_PER_TILE for layout in layouts),
        )

    async def Inspect(
        self, request_iterator: AsyncIterator[vision_service_pb2.InspectRequest], context: Context
    ) -> vision_service_pb2.InspectResponse:
        with self._active():
            await self.reading.wait()
            file = b"".join([request.chunk async for request in request_iterator])
        self.inspected.append(file)
        return vision_service_pb2.InspectResponse(
            kind=content_pb2.MEDIA_KIND_IMAGE,
            width=_tiles(file),
            height=1,
            media_type="image/test",
            frame_count=1,
        )

    async def EncoderInfo(
        self, request: vision_service_pb2.EncoderInfoRequest, context: Context
    ) -> vision_service_pb2.EncoderInfoResponse:
        return vision_service_pb2.EncoderInfoResponse(model_name=self.model, tokens_per_tile=TOKENS_PER_TILE)

    @contextmanager
    def _active(self) -> Iterator[None]:
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        self.idle.clear()
        try:
            yield
        finally:
            self.active -= 1
            if not self.active:
                self.idle.set()

    def _layout(self, file: bytes, opening: vision_service_pb2.EncodeOpen) -> content_pb2.VisualLayout:
        options = opening.image if opening.HasField("image") else opening.video
        tiles = _tiles(file)
        if opening.image.HasField("max_tiles"):
            tiles = min(tiles, opening.image.max_tiles)
        name = b"|".join((self.model.encode(), file, options.SerializeToString(deterministic=True)))
        return content_pb2.VisualLayout(
            visual_id=hashlib.sha256(name).hexdigest(),
            kind=content_pb2.MEDIA_KIND_IMAGE if opening.HasField("image") else content_pb2.MEDIA_KIND_VIDEO,
            grids=[content_pb2.TileGrid(columns=1, rows=tiles)],
            tiles=tiles,
            tokens_per_tile=TOKENS_PER_TILE,
        )


def _tiles(file: bytes) -> int:
    count = file.split(b" ")[0]
    if not count.isdigit():
        raise BadMedia("chunk", "unknown format")
    return int(count)
