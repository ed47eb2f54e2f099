"""The vision service on the wire: messages in, messages out, the work in between done elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import grpc
import numpy as np

from internvl.errors import InvalidField, Overloaded
from internvl.tensors import BFLOAT16, DTYPES, to_proto
from internvl.v1 import content_pb2, vision_service_pb2, vision_service_pb2_grpc
from vision_service import metrics
from vision_service.config import Config
from vision_service.decoding import MediaDecoder
from vision_service.items import Items, OpenItem
from vision_service.loading import LoadedModel
from vision_service.media import MediaKind
from vision_service.options import ImageOptions, MediaOptions, VideoOptions, count_tiles
from vision_service.reader import Reader
from vision_service.requests import EncodeParameters, RequestReader
from vision_service.tiling import TileGrid
from vision_service.upload import arriving_in_time, receive_upload

SERVICE_NAME = vision_service_pb2.DESCRIPTOR.services_by_name["VisionService"].full_name

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_DATA_TYPES = {dtype: data_type for data_type, dtype in DTYPES.items()}
_RETRY_AFTER_S = 1.0
_QUICK_PLAN_ITEMS = 16


class VisionService(vision_service_pb2_grpc.VisionServiceServicer):
    """The four calls of `internvl.v1.VisionService`."""

    def __init__(self, model: LoadedModel, items: Items, decoder: MediaDecoder, config: Config) -> None:
        self._model = model
        self._items = items
        self._decoder = decoder
        self._config = config
        self._reader = RequestReader(model.tiling, config.requests, config.media)
        self._open_requests = 0

    async def Encode(
        self, request_iterator: AsyncIterator[vision_service_pb2.EncodeRequest], context: Context
    ) -> AsyncIterator[vision_service_pb2.EncodeResponse]:
        with ExitStack() as held:
            held.enter_context(self._admitted())
            parameters, item = await self._open(request_iterator, held)
            reader = Reader(self._config.requests.reader_timeout_s, on_stall=held.close)
            layout = self._layout(parameters.options, item.grids, parameters.dtype)
            layout.visual_id = item.visual_id
            with reader.taking():
                yield vision_service_pb2.EncodeResponse(layout=layout)
            started = time.monotonic()
            number = parameters.first_tile
            async for embeddings in item.tiles:
                tile = content_pb2.Tile(
                    visual_id=item.visual_id, index=number, embeddings=to_proto(embeddings)
                )
                metrics.SENT_BYTES.inc(len(tile.embeddings.data))
                with reader.taking():
                    yield vision_service_pb2.EncodeResponse(tile=tile)
                number += 1
            summary = vision_service_pb2.EncodeSummary(
                tiles=layout.tiles - parameters.first_tile,
                decode_ms=item.decode_s * 1e3,
                encode_ms=(time.monotonic() - started) * 1e3,
            )
            with reader.taking():
                yield vision_service_pb2.EncodeResponse(summary=summary)

    async def Plan(
        self, request: vision_service_pb2.PlanRequest, context: Context
    ) -> vision_service_pb2.PlanResponse:
        # A plan of a few items takes less than a change of threads; a long one must not hold up other calls.
        if len(request.items) <= _QUICK_PLAN_ITEMS:
            return self._plan(request)
        return await asyncio.to_thread(self._plan, request)

    async def Inspect(
        self, request_iterator: AsyncIterator[vision_service_pb2.InspectRequest], context: Context
    ) -> vision_service_pb2.InspectResponse:
        with self._admitted():
            chunks = (message.chunk async for message in request_iterator)
            async with arriving_in_time(self._config.requests):
                upload = await receive_upload(chunks, self._config.requests)
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

    async def _open(
        self, messages: AsyncIterator[vision_service_pb2.EncodeRequest], held: ExitStack
    ) -> tuple[EncodeParameters, OpenItem]:
        async with arriving_in_time(self._config.requests):
            parameters = self._reader.read_open(await _first_message(messages))
            upload = await receive_upload(_chunks(messages), self._config.requests)
        return parameters, await self._items.open(upload, parameters, held)

    def _plan(self, request: vision_service_pb2.PlanRequest) -> vision_service_pb2.PlanResponse:
        plan = self._reader.read_plan(request)
        layouts = [self._layout(item.options, item.grids, BFLOAT16) for item in plan.items]
        return vision_service_pb2.PlanResponse(
            layouts=layouts,
            visual_tokens=sum(layout.tiles * layout.tokens_per_tile for layout in layouts),
            reduced=plan.reduced,
        )

    def _layout(
        self, options: MediaOptions, grids: tuple[TileGrid, ...], dtype: np.dtype[Any]
    ) -> content_pb2.VisualLayout:
        layout = content_pb2.VisualLayout(
            kind=content_pb2.MEDIA_KIND_IMAGE,
            grids=[
                content_pb2.TileGrid(columns=grid.columns, rows=grid.rows, thumbnail=grid.thumbnail)
                for grid in grids
            ],
            tiles=count_tiles(grids),
            tokens_per_tile=self._model.config.tokens_per_tile,
            hidden_size=self._model.config.llm.hidden_size,
            dtype=_DATA_TYPES[dtype],
        )
        if isinstance(options, VideoOptions):
            layout.kind = content_pb2.MEDIA_KIND_VIDEO
            layout.video_options.CopyFrom(_video_options(options))
        else:
            layout.image_options.CopyFrom(_image_options(options))
        return layout

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


def _image_options(options: ImageOptions) -> content_pb2.ImageOptions:
    tiling = options.tiling
    return content_pb2.ImageOptions(
        min_tiles=tiling.min_tiles, max_tiles=tiling.max_tiles, thumbnail=tiling.thumbnail
    )


def _video_options(options: VideoOptions) -> content_pb2.VideoOptions:
    return content_pb2.VideoOptions(
        frames=options.frames,
        tiles_per_frame=options.tiling.max_tiles,
        start_s=options.start_s,
        end_s=options.end_s,
    )


async def _first_message(
    messages: AsyncIterator[vision_service_pb2.EncodeRequest],
) -> vision_service_pb2.EncodeOpen:
    first = await anext(messages, None)
    if first is None or not first.HasField("open"):
        raise InvalidField("open", "must be the first message of the stream")
    return first.open


async def _chunks(messages: AsyncIterator[vision_service_pb2.EncodeRequest]) -> AsyncIterator[bytes]:
    async for message in messages:
        if not message.HasField("chunk"):
            raise InvalidField("chunk", "must be set in every message after the first")
        yield message.chunk
