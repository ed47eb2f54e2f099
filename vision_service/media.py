"""What a file is, by its content, and its way to tiles. Nobody has vouched for these bytes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from internvl.errors import BadMedia
from vision_service.image import FileBytes, open_image, read_size
from vision_service.limits import MediaLimits
from vision_service.options import ImageOptions, MediaOptions, VideoOptions, count_tiles, plan_media
from vision_service.preprocessing import cut_tiles
from vision_service.tiling import TileGrid
from vision_service.video import open_video


class MediaKind(StrEnum):
    IMAGE = "picture"
    VIDEO = "film"


@dataclass(frozen=True, slots=True)
class MediaType:
    """A format on the allow-list.

    Attributes:
        name: media type, for example `image/png`.
        decoder: the only one that may open it: a format of Pillow, a demuxer of FFmpeg for films.
    """

    name: str
    kind: MediaKind
    decoder: str = ""


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a file is: size in pixels after EXIF orientation; one frame and no duration for a picture."""

    type: MediaType
    width: int
    height: int
    frame_count: int = 1
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class DecodedMedia:
    """A file as tiles.

    Attributes:
        grids: one for a picture, one for each sampled frame of a film.
        tiles: [tiles, S, S, 3] uint8, in the order of the grids, row by row, each grid's thumbnail last.
    """

    grids: tuple[TileGrid, ...]
    tiles: NDArray[np.uint8]


_JPEG = MediaType("image/jpeg", MediaKind.IMAGE, "JPEG")
_PNG = MediaType("image/png", MediaKind.IMAGE, "PNG")
_WEBP = MediaType("image/webp", MediaKind.IMAGE, "WEBP")
_GIF = MediaType("image/gif", MediaKind.IMAGE, "GIF")
_BMP = MediaType("image/bmp", MediaKind.IMAGE, "BMP")
_TIFF = MediaType("image/tiff", MediaKind.IMAGE, "TIFF")
_MP4 = MediaType("video/mp4", MediaKind.VIDEO, "mp4")
_MOV = MediaType("video/quicktime", MediaKind.VIDEO, "mov")
_WEBM = MediaType("video/webm", MediaKind.VIDEO, "webm")

_SIGNATURES = (
    (b"\xff\xd8\xff", _JPEG),
    (b"\x89PNG\r\n\x1a\n", _PNG),
    (b"GIF87a", _GIF),
    (b"GIF89a", _GIF),
    (b"BM", _BMP),
    (b"II*\x00", _TIFF),
    (b"MM\x00*", _TIFF),
)
_MATROSKA = b"\x1a\x45\xdf\xa3"
# Brands of ISO containers that hold still pictures (AVIF, HEIF), which are not on the list.
_STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heif", b"hevc", b"mif1", b"msf1")


def detect_type(data: FileBytes) -> MediaType:
    """Tell the format from the first bytes; a name or a claimed type is never looked at.

    Raises:
        BadMedia: no bytes, or no format on the list.
    """
    if not data:
        raise BadMedia("chunk", "the file is empty")
    for signature, media_type in _SIGNATURES:
        if data.startswith(signature):
            return media_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _WEBP
    if data[4:8] == b"ftyp" and data[8:12] not in _STILL_BRANDS:
        return _MOV if data[8:12] == b"qt  " else _MP4
    if data.startswith(_MATROSKA) and b"webm" in data[:64]:
        return _WEBM
    raise BadMedia("chunk", "unknown format; JPEG, PNG, WebP, GIF, BMP, TIFF, MP4, MOV and WebM are known")


def inspect_media(data: FileBytes, limits: MediaLimits) -> MediaInfo:
    """Read what planning needs to know, decoding as little as possible.

    Raises:
        BadMedia: unknown, damaged or over a limit.
    """
    media_type = detect_type(data)
    if media_type.kind is MediaKind.IMAGE:
        return MediaInfo(media_type, *read_size(data, media_type.decoder, limits))
    with open_video(data, media_type.decoder, limits) as film:
        return MediaInfo(media_type, film.width, film.height, film.frame_count, film.duration_s)


def decode_media(data: FileBytes, options: MediaOptions, limits: MediaLimits) -> DecodedMedia:
    """Decode a file and cut it into tiles.

    Raises:
        BadMedia: unknown, damaged, over a limit, or a film where a picture was announced or the reverse.
        InvalidField: the film is too short for the options.
    """
    media_type = detect_type(data)
    expected = MediaKind.VIDEO if isinstance(options, VideoOptions) else MediaKind.IMAGE
    if media_type.kind is not expected:
        raise BadMedia("chunk", f"expected a {expected}, found a {media_type.kind} ({media_type.name})")
    if isinstance(options, ImageOptions):
        return _decode_image(data, media_type, options, limits)
    return _decode_video(data, media_type, options, limits)


def _decode_image(
    data: FileBytes, media_type: MediaType, options: ImageOptions, limits: MediaLimits
) -> DecodedMedia:
    image = open_image(data, media_type.decoder, limits)
    grids = plan_media(image.width, image.height, options)
    check_tile_count(grids, limits, "open.image")
    return DecodedMedia(grids, cut_tiles(image, grids[0], options.tiling.tile_size))


def _decode_video(
    data: FileBytes, media_type: MediaType, options: VideoOptions, limits: MediaLimits
) -> DecodedMedia:
    with open_video(data, media_type.decoder, limits) as film:
        grids = plan_media(film.width, film.height, options)
        check_tile_count(grids, limits, "open.video")
        frames = film.sample(options)
        size = options.tiling.tile_size
        return DecodedMedia(grids, np.concatenate([cut_tiles(frame, grids[0], size) for frame in frames]))


def check_tile_count(grids: tuple[TileGrid, ...], limits: MediaLimits, field: str) -> None:
    """Raises BadMedia if one item makes more tiles than the server takes."""
    tiles = count_tiles(grids)
    if tiles > limits.max_tiles:
        raise BadMedia(
            field,
            f"makes {tiles} tiles; at most {limits.max_tiles} an item are taken",
            metadata={"tiles": tiles, "limit": limits.max_tiles},
        )
