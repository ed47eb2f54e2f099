"""Opening pictures with Pillow: one format at a time, limits before pixels, generic errors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

from internvl.errors import BadMedia
from vision_service.limits import MediaLimits

FileBytes: TypeAlias = bytes | bytearray

# Modes whose conversion to RGB has one meaning. Left out: LAB, and 32-bit integers and floats, whose range
# nobody can know.
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_MODES_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_TURNED_SIDEWAYS = (5, 6, 7, 8)

BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels: the paper that most transparent drawings are made for."""


def read_size(data: FileBytes, decoder: str, limits: MediaLimits) -> tuple[int, int]:
    """Width and height in pixels after EXIF orientation, from the header alone.

    Raises:
        BadMedia: not a picture of this format, damaged, or over a limit.
    """
    with _opened(data, decoder) as image:
        width, height = image.size
        # Pillow has already turned the size of a TIFF, and of no other format.
        if decoder != "TIFF" and _orientation(image) in _TURNED_SIDEWAYS:
            width, height = height, width
    check_size(width, height, limits, "chunk")
    return width, height


def open_image(data: FileBytes, decoder: str, limits: MediaLimits) -> Image.Image:
    """Decode a picture to RGB, upright.

    What is transparent is blended over white. Of several frames or pages the first is taken. 16-bit grey
    keeps its high byte. Colour profiles are ignored.

    Args:
        data: the file.
        decoder: the only Pillow format that may open it.

    Raises:
        BadMedia: not a picture of this format, damaged, over a limit, or of an unsupported colour mode.
    """
    read_size(data, decoder, limits)
    with _opened(data, decoder) as image:
        _scale_transparent_grey(image, data)
        is_negative = decoder == "TIFF" and _is_white_zero(image)
        image.load()
        upright = _turn_upright(image)
        if upright.mode not in (*_MODES, *_MODES_16_BIT):
            raise BadMedia("chunk", "the picture's colour mode is not supported; 8 or 16 bits a channel are")
        if upright.mode in _MODES_16_BIT:
            return _keep_high_bytes(upright, is_negative)
        return _over_background(upright) if upright.has_transparency_data else upright.convert("RGB")


def check_size(width: int, height: int, limits: MediaLimits, field: str) -> None:
    """Raises BadMedia if a picture or frame of this size in pixels is over a limit."""
    if width * height > limits.max_pixels:
        raise BadMedia(
            field,
            f"{width} x {height} pixels; at most {limits.max_pixels} in all are taken",
            metadata={"width": width, "height": height, "limit": limits.max_pixels},
        )
    if max(width, height) > limits.max_aspect_ratio * min(width, height):
        raise BadMedia(
            field,
            f"{width} x {height} pixels; one side may be at most {limits.max_aspect_ratio:g} times the other",
            metadata={"width": width, "height": height, "limit": limits.max_aspect_ratio},
        )


@contextmanager
def _opened(data: FileBytes, decoder: str) -> Iterator[Image.Image]:
    """The picture, not yet decoded; what Pillow raises inside the block becomes BadMedia without its text."""
    try:
        with warnings.catch_warnings():
            # Sizes are checked against our own limits; odd metadata is no reason to write to the log.
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(data), formats=(decoder,)) as image:
                yield image
    except (BadMedia, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise BadMedia("chunk", "the picture has too many pixels") from None
    except Exception:  # Pillow raises almost every built-in type on damaged files
        raise BadMedia("chunk", "the picture is damaged or cut short") from None


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation, or None; broken EXIF data counts as none, as it does in browsers."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return None
    return value if isinstance(value, int) else None


def _turn_upright(image: Image.Image) -> Image.Image:
    if _orientation(image) in (None, 1):
        return image
    return ImageOps.exif_transpose(image)


def _scale_transparent_grey(image: Image.Image, data: FileBytes) -> None:
    """Pillow spreads grey of 2 or 4 bits over 0 to 255, but not the transparent level of a PNG."""
    level = image.info.get("transparency")
    if image.format == "PNG" and image.mode == "L" and isinstance(level, int):
        bits = data[24]  # of the header, which Pillow has just accepted
        image.info["transparency"] = level * 255 // (2**bits - 1)


def _is_white_zero(image: Image.Image) -> bool:
    tags = getattr(image, "tag_v2", {})
    return bool(tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0)


def _keep_high_bytes(image: Image.Image, is_negative: bool) -> Image.Image:
    """16-bit grey to RGB. Pillow would clip at 255, and forget what is negative or transparent."""
    values = np.asarray(image).astype(np.uint16)
    levels = (values >> 8).astype(np.uint8)
    if is_negative:
        levels = 255 - levels
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        levels[values == transparent] = BACKGROUND[0]
    return Image.fromarray(levels).convert("RGB")


def _over_background(image: Image.Image) -> Image.Image:
    """Blended; where nothing is transparent the colours stay exactly as `convert("RGB")` gives them."""
    if image.mode == "La":  # Pillow converts it to LA only
        image = image.convert("LA")
    colours = image.convert("RGBA")
    background = Image.new("RGB", image.size, BACKGROUND)
    background.paste(colours, mask=colours)
    return background
