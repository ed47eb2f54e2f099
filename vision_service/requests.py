"""Requests as they come over the wire, checked and with every default filled in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from internvl.errors import BadMedia, InvalidField
from internvl.tensors import DTYPES
from internvl.v1 import content_pb2, tensor_pb2, vision_service_pb2
from vision_service.budget import split_budget
from vision_service.image import check_size
from vision_service.limits import MediaLimits, RequestLimits
from vision_service.media import check_tile_count
from vision_service.options import (
    ImageOptions,
    MediaOptions,
    VideoOptions,
    count_tiles,
    plan_media,
    smaller_ways,
)
from vision_service.tiling import TileGrid, TilingOptions

DEFAULT_FRAMES = 8

_DETAIL_TILES = {
    content_pb2.DETAIL_LOW: 6,
    content_pb2.DETAIL_MEDIUM: 12,
    content_pb2.DETAIL_HIGH: 24,
}


@dataclass(frozen=True, slots=True)
class EncodeParameters:
    """A checked `EncodeOpen`."""

    options: MediaOptions
    dtype: np.dtype[Any]
    first_tile: int


@dataclass(frozen=True, slots=True)
class PlannedItem:
    """A checked `PlanItem`.

    Attributes:
        width: in pixels, as `height`.
        grids: that it makes.
    """

    width: int
    height: int
    options: MediaOptions
    grids: tuple[TileGrid, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a `PlanRequest` comes to.

    Attributes:
        reduced: whether the budget left any item fewer tiles than it asked for.
    """

    items: tuple[PlannedItem, ...]
    reduced: bool


@dataclass(frozen=True, slots=True)
class RequestReader:
    """Turns messages into options, by the model's defaults and this server's limits.

    Attributes:
        tiling: how the model tiles a picture unless told otherwise.
    """

    tiling: TilingOptions
    requests: RequestLimits
    media: MediaLimits

    @property
    def default_max_tiles(self) -> int:
        """Default of `ImageOptions.max_tiles`: the model's, if this server allows it."""
        return min(self.tiling.max_tiles, self.requests.max_grid_tiles)

    def read_open(self, message: vision_service_pb2.EncodeOpen) -> EncodeParameters:
        """Check the first message of an encode stream.

        Raises:
            InvalidField: a value out of range.
            BadMedia: the file is announced to be over the limit.
        """
        if message.HasField("size_bytes"):
            check_media_bytes(message.size_bytes, self.requests, "open.size_bytes")
        return EncodeParameters(
            options=self._options(message, "open"),
            dtype=_dtype(message, "open.dtype"),
            first_tile=message.first_tile,
        )

    def read_plan(self, request: vision_service_pb2.PlanRequest) -> Plan:
        """Check and plan each item, within the budget of all together.

        Raises:
            InvalidField: a value out of range, no items or too many, a budget of less than a tile for each.
            BadMedia: an item that `Encode` would refuse for its size.
        """
        limit = self.requests.max_plan_items
        if not 1 <= len(request.items) <= limit:
            raise InvalidField("items", f"must be 1 to {limit} items, got {len(request.items)}")
        asked = [self._plan_item(item, f"items[{number}]") for number, item in enumerate(request.items)]
        items = _within_budget(asked, request.tile_budget) if request.HasField("tile_budget") else asked
        for number, item in enumerate(items):
            kind = request.items[number].WhichOneof("options")
            check_tile_count(item.grids, self.media, f"items[{number}].{kind}")
        return Plan(tuple(items), reduced=items != asked)

    def _plan_item(self, item: vision_service_pb2.PlanItem, field: str) -> PlannedItem:
        for name, value in (("width", item.width), ("height", item.height)):
            if value < 1:
                raise InvalidField(f"{field}.{name}", f"must be at least 1, got {value}")
        check_size(item.width, item.height, self.media, field)
        return _planned(item.width, item.height, self._options(item, field))

    def _options(
        self, message: vision_service_pb2.EncodeOpen | vision_service_pb2.PlanItem, field: str
    ) -> MediaOptions:
        kind = message.WhichOneof("options")
        if kind is None:
            raise InvalidField(f"{field}.options", "image or video must be set")
        if kind == "image":
            return ImageOptions(self._image_tiling(message.image, f"{field}.image"))
        return self._video(message.video, f"{field}.video")

    def _image_tiling(self, message: content_pb2.ImageOptions, field: str) -> TilingOptions:
        max_tiles = self._max_tiles(message, field)
        default_min_tiles = min(self.tiling.min_tiles, max_tiles)
        min_tiles = message.min_tiles if message.HasField("min_tiles") else default_min_tiles
        if not 1 <= min_tiles <= max_tiles:
            raise InvalidField(f"{field}.min_tiles", f"must be 1 to max_tiles ({max_tiles}), got {min_tiles}")
        return TilingOptions(
            min_tiles=min_tiles,
            max_tiles=max_tiles,
            thumbnail=message.thumbnail if message.HasField("thumbnail") else self.tiling.thumbnail,
            tile_size=self.tiling.tile_size,
        )

    def _max_tiles(self, message: content_pb2.ImageOptions, field: str) -> int:
        limit = self.requests.max_grid_tiles
        if message.detail == content_pb2.DETAIL_UNSPECIFIED:
            max_tiles = message.max_tiles if message.HasField("max_tiles") else self.default_max_tiles
            _check_range(max_tiles, limit, f"{field}.max_tiles")
            return max_tiles
        if message.HasField("max_tiles"):
            raise InvalidField(f"{field}.detail", "stands for a max_tiles; set one of the two")
        detail_tiles = _DETAIL_TILES.get(message.detail)
        if detail_tiles is None:
            raise InvalidField(f"{field}.detail", f"must be low, medium or high, got {message.detail}")
        if detail_tiles > limit:
            raise InvalidField(
                f"{field}.detail", f"stands for {detail_tiles} tiles; this server takes at most {limit}"
            )
        return detail_tiles

    def _video(self, message: content_pb2.VideoOptions, field: str) -> VideoOptions:
        frames = message.frames if message.HasField("frames") else DEFAULT_FRAMES
        _check_range(frames, self.requests.max_frames, f"{field}.frames")
        per_frame = message.tiles_per_frame if message.HasField("tiles_per_frame") else 1
        _check_range(per_frame, self.requests.max_grid_tiles, f"{field}.tiles_per_frame")
        start_s, end_s = _bounds(message, field)
        tiling = TilingOptions(1, per_frame, self.tiling.thumbnail, self.tiling.tile_size)
        return VideoOptions(tiling, frames, start_s, end_s)


def check_media_bytes(size: int, limits: RequestLimits, field: str) -> None:
    """Raises BadMedia if a file of `size` bytes, or that many of it so far, is over the limit."""
    if size > limits.max_media_bytes:
        raise BadMedia(
            field,
            f"the file is longer than the limit of {limits.max_media_bytes} bytes",
            metadata={"limit": limits.max_media_bytes},
        )


def _planned(width: int, height: int, options: MediaOptions) -> PlannedItem:
    return PlannedItem(width, height, options, plan_media(width, height, options))


def _within_budget(items: list[PlannedItem], budget: int) -> list[PlannedItem]:
    """The items, with fewer tiles where all together would make more than `budget`."""
    if budget < len(items):
        raise InvalidField("tile_budget", f"must be at least 1 for each of {len(items)} items, got {budget}")
    if sum(count_tiles(item.grids) for item in items) <= budget:
        return items
    ladders = [smaller_ways(item.width, item.height, item.options) for item in items]
    chosen = split_budget(budget, [[way.tiles for way in ladder] for ladder in ladders])
    return [
        _planned(item.width, item.height, ladder[place].apply(item.options))
        for item, ladder, place in zip(items, ladders, chosen, strict=True)
    ]


def _check_range(value: int, limit: int, field: str) -> None:
    if not 1 <= value <= limit:
        raise InvalidField(field, f"must be 1 to {limit}, got {value}")


def _bounds(message: content_pb2.VideoOptions, field: str) -> tuple[float | None, float | None]:
    start_s = message.start_s if message.HasField("start_s") else None
    end_s = message.end_s if message.HasField("end_s") else None
    for name, value in (("start_s", start_s), ("end_s", end_s)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise InvalidField(f"{field}.{name}", f"must be 0 or more seconds, got {value:g}")
    if end_s is not None and end_s <= (start_s or 0.0):
        raise InvalidField(f"{field}.end_s", f"must be above start_s ({start_s or 0.0:g}), got {end_s:g}")
    return start_s, end_s


def _dtype(message: vision_service_pb2.EncodeOpen, field: str) -> np.dtype[Any]:
    data_type = message.dtype if message.HasField("dtype") else tensor_pb2.DATA_TYPE_BFLOAT16
    dtype: np.dtype[Any] | None = DTYPES.get(data_type)
    if dtype is None:
        known = ", ".join(tensor_pb2.DataType.Name(data_type) for data_type in DTYPES)
        raise InvalidField(field, f"must be one of {known}")
    return dtype
