"""The vision service on the wire: messages in, messages out, the work in between done elsewhere."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import numpy as np

from internvl.errors import BadMedia, DeadlineExceeded, InvalidField, Overloaded
from internvl.tensors import BFLOAT16, DTYPES, to_proto
from internvl.v1 import content_pb2, vision_service_pb2, vision_service_pb2_grpc
from vision_service import metrics
from vision_service.config import Config
from vision_service.decoding import MediaDecoder
from vision_service.encoder import Encoder
from vision_service.loading import LoadedModel
from vision_service.media import DecodedMedia, MediaKind
from vision_service.options import MediaOptions, VideoOptions, count_tiles
from vision_service.requests import EncodeParameters, RequestReader, check_media_bytes
from vision_service.tiling import TileGrid
from vision_service.visual_id import visual_id

SERVICE_NAME = vision_service_pb2.DESCRIPTOR.services_by_name["VisionService"].full_name

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_DATA_TYPES = {dtype: data_type for data_type, dtype in DTYPES.items()}
_RETRY_AFTER_S = 1.0


class VisionService(vision_service_pb2_grpc.VisionServiceServicer):
    """The four calls of `internvl.v1.VisionService`."""

    def __init__(self, model: LoadedModel, encoder: Encoder, decoder: MediaDecoder, config: Config) -> None:
        self._model = model
        self._encoder = encoder
        self._decoder = decoder
        self._config = config
        self._reader = RequestReader(model.tiling, config.requests, config.media)
        self._open_requests = 0

    async def Encode(
        self, request_iterator: AsyncIterator[vision_service_pb2.EncodeRequest], context: Context
    ) -> AsyncIterator[vision_service_pb2.EncodeResponse]:
        with self._admitted():
            parameters = self._reader.read_open(await _first_message(request_iterator))
            upload = await self._receive(_chunks(request_iterator))
            started = time.monotonic()
            media = await self._decoder.decode(upload.data, parameters.options)
            decoded = time.monotonic()
            _check_first_tile(parameters.first_tile, media)
            layout = self._layout(parameters.options, media.grids, parameters.dtype)
            layout.visual_id = visual_id(
                upload.content_hash, parameters.options, self._model.identity, parameters.dtype.name
            )
            del upload
            yield vision_service_pb2.EncodeResponse(layout=layout)
            async with aclosing(self._tiles(layout.visual_id, media, parameters)) as tiles:
                async for tile in tiles:
                    yield tile
            yield vision_service_pb2.EncodeResponse(
                summary=vision_service_pb2.EncodeSummary(
                    tiles=layout.tiles - parameters.first_tile,
                    decode_ms=(decoded - started) * 1e3,
                    encode_ms=(time.monotonic() - decoded) * 1e3,
                )
            )

    async def Plan(
        self, request: vision_service_pb2.PlanRequest, context: Context
    ) -> vision_service_pb2.PlanResponse:
        planned = self._reader.read_plan(request.items)
        layouts = [self._layout(item.options, item.grids, BFLOAT16) for item in planned]
        return vision_service_pb2.PlanResponse(
            layouts=layouts, visual_tokens=sum(layout.tiles * layout.tokens_per_tile for layout in layouts)
        )

    async def Inspect(
        self, request_iterator: AsyncIterator[vision_service_pb2.InspectRequest], context: Context
    ) -> vision_service_pb2.InspectResponse:
        with self._admitted():
            upload = await self._receive(message.chunk async for message in request_iterator)
            info = await self._decoder.inspect(upload.data)
        film = info.type.kind is MediaKind.VIDEO
        return vision_service_pb2.InspectResponse(
            kind=content_pb2.MEDIA_KIND_VIDEO if film else content_pb2.MEDIA_KIND_IMAGE,
            width=info.width,
            height=info.height,
            media_type=info.type.name,
            frame_count=info.frame_count,
            duration_s=info.duration_s,
        )

    async def EncoderInfo(
        self, request: vision_service_pb2.EncoderInfoRequest, context: Context
    ) -> vision_service_pb2.EncoderInfoResponse:
        limits = self._config.requests
        return vision_service_pb2.EncoderInfoResponse(
            model_name=self._model.name,
            weights_fingerprint=self._model.identity.weights_fingerprint,
            preprocessing_version=self._model.identity.preprocessing_version,
            tile_size=self._model.tiling.tile_size,
            tokens_per_tile=self._model.config.tokens_per_tile,
            hidden_size=self._model.config.llm.hidden_size,
            default_max_tiles=self._reader.default_max_tiles,
            max_tiles_limit=limits.max_grid_tiles,
            max_frames_limit=limits.max_frames,
            max_media_bytes=limits.max_media_bytes,
        )

    async def _tiles(
        self, name: str, media: DecodedMedia, parameters: EncodeParameters
    ) -> AsyncGenerator[vision_service_pb2.EncodeResponse, None]:
        async with aclosing(self._encoder.encode(media.tiles, parameters.first_tile)) as encoded:
            async for tile in encoded:
                embeddings = to_proto(tile.embeddings.astype(parameters.dtype))
                metrics.SENT_BYTES.inc(len(embeddings.data))
                yield vision_service_pb2.EncodeResponse(
                    tile=content_pb2.Tile(visual_id=name, index=tile.index, embeddings=embeddings)
                )

    def _layout(
        self, options: MediaOptions, grids: tuple[TileGrid, ...], dtype: np.dtype[Any]
    ) -> content_pb2.VisualLayout:
        film = isinstance(options, VideoOptions)
        return content_pb2.VisualLayout(
            kind=content_pb2.MEDIA_KIND_VIDEO if film else content_pb2.MEDIA_KIND_IMAGE,
            grids=[
                content_pb2.TileGrid(columns=grid.columns, rows=grid.rows, thumbnail=grid.thumbnail)
                for grid in grids
            ],
            tiles=count_tiles(grids),
            tokens_per_tile=self._model.config.tokens_per_tile,
            hidden_size=self._model.config.llm.hidden_size,
            dtype=_DATA_TYPES[dtype],
        )

    async def _receive(self, chunks: AsyncIterator[bytes]) -> _Upload:
        """Collect a file until the client half-closes."""
        upload = _Upload(bytearray(), hashlib.sha256())
        timeout_s = self._config.requests.upload_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                async for chunk in chunks:
                    check_media_bytes(len(upload.data) + len(chunk), self._config.requests, "chunk")
                    upload.add(chunk)
        except TimeoutError:
            raise DeadlineExceeded(f"the file was not complete within {timeout_s:g} s") from None
        if not upload.data:
            raise BadMedia("chunk", "the file is empty")
        return upload

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """Hold one of the places for requests that keep a file in memory."""
        limit = self._config.requests.max_open_requests
        if self._open_requests >= limit:
            raise Overloaded(
                f"{limit} requests are open and no more are taken; try again later",
                retry_after_s=_RETRY_AFTER_S,
                metadata={"limit": limit},
            )
        self._open_requests += 1
        metrics.OPEN_REQUESTS.inc()
        try:
            yield
        finally:
            self._open_requests -= 1
            metrics.OPEN_REQUESTS.dec()


@dataclass(slots=True)
class _Upload:
    """A file as it arrives; hashed on the way, because hashing it whole would hold up every other call."""

    data: bytearray
    _digest: Any

    def add(self, chunk: bytes) -> None:
        self.data += chunk
        self._digest.update(chunk)

    @property
    def content_hash(self) -> str:
        return str(self._digest.hexdigest())


async def _first_message(
    messages: AsyncIterator[vision_service_pb2.EncodeRequest],
) -> vision_service_pb2.EncodeOpen:
    first = await anext(aiter(messages), None)
    if first is None or not first.HasField("open"):
        raise InvalidField("open", "must be the first message of the stream")
    return first.open


async def _chunks(messages: AsyncIterator[vision_service_pb2.EncodeRequest]) -> AsyncIterator[bytes]:
    async for message in messages:
        if not message.HasField("chunk"):
            raise InvalidField("chunk", "must be set in every message after the first")
        yield message.chunk


def _check_first_tile(first_tile: int, media: DecodedMedia) -> None:
    last = len(media.tiles) - 1
    if first_tile > last:
        raise InvalidField("open.first_tile", f"must be 0 to {last}, the last tile, got {first_tile}")
