"""Pictures of every allowed kind become the documented pixels; everything else is refused by name."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from internvl.errors import BadMedia
from tests.unit.media_samples import encoded, film, picture
from vision_service.image import open_image
from vision_service.limits import MediaLimits
from vision_service.media import MediaKind, decode_media, detect_type, inspect_media
from vision_service.options import ImageOptions, VideoOptions
from vision_service.tiling import TilingOptions

LIMITS = MediaLimits()
TILING = TilingOptions(1, 6, True, 28)
IMAGE = ImageOptions(TILING)

ORIENTATION = 0x0112
# What a camera stores when the upright picture is turned so that EXIF tag n undoes it.
STORED_AS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def rgb(data: bytes, limits: MediaLimits = LIMITS) -> np.ndarray:
    return np.asarray(open_image(data, detect_type(data).decoder, limits))


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def quadrants(width: int = 64, height: int = 32) -> Image.Image:
    """Four flat colours on 16-pixel borders: JPEG keeps them exactly."""
    image = Image.new("RGB", (width, height))
    for number, colour in enumerate([(200, 30, 40), (20, 180, 60), (10, 40, 220), (250, 250, 250)]):
        corner = (number % 2 * width // 2, number // 2 * height // 2)
        image.paste(colour, (*corner, corner[0] + width // 2, corner[1] + height // 2))
    return image


@pytest.mark.parametrize(
    ("file_format", "media_type", "options"),
    [
        ("PNG", "image/png", {}),
        ("WEBP", "image/webp", {"lossless": True}),
        ("BMP", "image/bmp", {}),
        ("TIFF", "image/tiff", {}),
        ("TIFF", "image/tiff", {"compression": "tiff_lzw"}),
        ("TIFF", "image/tiff", {"big_tiff": False, "compression": "tiff_adobe_deflate"}),
    ],
)
def test_lossless_formats_keep_every_pixel(
    file_format: str, media_type: str, options: dict[str, object]
) -> None:
    image = picture(51, 23)
    data = encoded(image, file_format, **options)
    assert np.array_equal(rgb(data), np.asarray(image))
    info = inspect_media(data, LIMITS)
    assert (info.type.name, info.width, info.height, info.frame_count) == (media_type, 51, 23, 1)
    assert info.duration_s == 0


def test_jpeg_and_gif_decode_as_pillow_does() -> None:
    for file_format in ("JPEG", "GIF"):
        data = encoded(picture(33, 47), file_format)
        with Image.open(io.BytesIO(data)) as image:
            assert np.array_equal(rgb(data), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_before_tiling(file_format: str, orientation: int) -> None:
    upright = quadrants()
    turn = STORED_AS[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(file_format, {})
    data = encoded(stored, file_format, exif=exif, **options)
    plain = encoded(upright, file_format, **options)
    assert np.array_equal(rgb(data), rgb(plain))
    info = inspect_media(data, LIMITS)
    assert (info.width, info.height) == upright.size
    tiles = decode_media(data, IMAGE, LIMITS)
    assert np.array_equal(tiles.tiles, decode_media(plain, IMAGE, LIMITS).tiles)


def test_broken_exif_counts_as_none() -> None:
    image = picture()
    data = encoded(image, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff\xff\xff")
    assert np.array_equal(rgb(data), np.asarray(image))


TRANSPARENT = {
    "png rgba": lambda alpha: encoded(with_alpha(picture(), alpha)),
    "png grey": lambda alpha: encoded(with_alpha(picture(), alpha).convert("LA")),
    "webp": lambda alpha: encoded(with_alpha(picture(), alpha), "WEBP", lossless=True, exact=True),
    "tiff": lambda alpha: encoded(with_alpha(picture(), alpha), "TIFF"),
}


def with_alpha(image: Image.Image, alpha: np.ndarray) -> Image.Image:
    result = image.convert("RGBA")
    result.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    return result


@pytest.mark.parametrize("name", TRANSPARENT)
def test_alpha_is_blended_over_white(name: str) -> None:
    alpha = np.arange(30 * 40).reshape(30, 40) % 256
    data = TRANSPARENT[name](alpha)
    with Image.open(io.BytesIO(data)) as image:
        stored = np.asarray(image).astype(float)
    colours, share = stored[..., :-1], stored[..., -1:] / 255
    expected = np.broadcast_to(colours * share + 255 * (1 - share), (30, 40, 3))
    assert np.abs(rgb(data) - expected).max() <= 1
    assert np.all(rgb(data)[alpha == 0] == 255)


@pytest.mark.parametrize("name", TRANSPARENT)
def test_opaque_alpha_changes_nothing(name: str) -> None:
    data = TRANSPARENT[name](np.full((30, 40), 255))
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(rgb(data), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(file_format: str) -> None:
    image = picture().quantize(16)
    expected = np.asarray(image.convert("RGB")).copy()
    expected[np.asarray(image) == 3] = 255
    assert np.array_equal(rgb(encoded(image, file_format, transparency=3)), expected)


def test_a_transparent_colour_is_white() -> None:
    """PNG names one colour of a picture without alpha (tRNS)."""
    image = quadrants()
    expected = np.asarray(image).copy()
    expected[np.all(expected == (20, 180, 60), axis=-1)] = 255
    assert np.array_equal(rgb(encoded(image, transparency=(20, 180, 60))), expected)


def test_one_bit_becomes_black_and_white() -> None:
    pixels = rgb(encoded(picture().convert("1")))
    assert set(np.unique(pixels)) == {0, 255}
    assert np.array_equal(pixels[..., 0], np.asarray(picture().convert("1")).astype(np.uint8) * 255)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_high_byte(file_format: str) -> None:
    """Pillow alone would clip nearly everything to white."""
    levels = np.arange(0, 65536, 64, dtype=np.uint16).reshape(16, 64)
    pixels = rgb(encoded(Image.fromarray(levels), file_format))
    assert np.array_equal(pixels, np.repeat((levels // 256).astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_cmyk_decodes_as_pillow_does(file_format: str) -> None:
    image = quadrants().convert("CMYK")
    data = encoded(image, file_format, **({"quality": 100} if file_format == "JPEG" else {}))
    assert np.abs(rgb(data).astype(int) - np.asarray(quadrants()).astype(int)).max() <= 2


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_counts(file_format: str) -> None:
    first, second = quadrants(), ImageOps.invert(quadrants())
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(first, file_format, save_all=True, append_images=[second], **options)
    assert np.array_equal(rgb(data), np.asarray(first))


def test_a_colour_profile_changes_nothing() -> None:
    assert np.array_equal(rgb(encoded(picture(), icc_profile=b"not a profile")), np.asarray(picture()))


def test_the_smallest_picture_makes_one_tile() -> None:
    media = decode_media(encoded(picture(1, 1)), IMAGE, LIMITS)
    assert media.tiles.shape == (1, 28, 28, 3)


@pytest.mark.parametrize(
    "image",
    [picture().convert("LAB"), Image.new("F", (9, 9)), Image.new("I", (9, 9))],
    ids=lambda image: image.mode,
)
def test_colours_without_a_clear_meaning_are_refused(image: Image.Image) -> None:
    with pytest.raises(BadMedia, match="colour mode is not supported"):
        rgb(encoded(image, "TIFF"))


@pytest.mark.parametrize(
    "data",
    [
        b"hello, I am a text file and not a picture at all",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7 " + bytes(64),
        b"\0\0\0\x20ftypavif" + bytes(64),
        b"\0\0\0\x20ftypheic" + bytes(64),
        b"RIFF\x10\0\0\0WAVEfmt " + bytes(64),
        b"\x1a\x45\xdf\xa3" + b"\x42\x82\x88matroska" + bytes(64),
        b"8BPS" + bytes(64),
        b"\xff",
    ],
)
def test_formats_off_the_list_are_refused(data: bytes) -> None:
    with pytest.raises(BadMedia, match="unknown format; JPEG, PNG") as refused:
        inspect_media(data, LIMITS)
    assert refused.value.field == "chunk"


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(BadMedia, match="chunk: the file is empty"):
        inspect_media(b"", LIMITS)


def test_a_format_is_opened_by_its_own_decoder_only() -> None:
    """A signature of one format before the body of another never reaches a second decoder."""
    with pytest.raises(BadMedia, match="damaged or cut short"):
        rgb(b"GIF89a" + encoded(picture()))


def test_the_announced_kind_must_be_the_found_one() -> None:
    with pytest.raises(BadMedia, match=r"expected a film, found a picture \(image/png\)"):
        decode_media(encoded(picture()), VideoOptions(TILING, 4, None, None), LIMITS)
    with pytest.raises(BadMedia, match=r"expected a picture, found a film \(video/mp4\)"):
        decode_media(film(3), IMAGE, LIMITS)
    assert detect_type(film(3)).kind is MediaKind.VIDEO


def test_pixels_are_counted_before_they_are_decoded() -> None:
    data = encoded(picture(100, 80))
    with pytest.raises(BadMedia, match="100 x 80 pixels; at most 7999 in all") as refused:
        rgb(data, MediaLimits(max_pixels=7999))
    assert refused.value.metadata == {"width": "100", "height": "80", "limit": "7999"}
    assert rgb(data, MediaLimits(max_pixels=8000)).shape == (80, 100, 3)


def test_a_bomb_is_refused_by_its_header() -> None:
    """60,000 x 60,000 announced, no pixel sent; decoding it would need 10 GB."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(9)))
    with pytest.raises(BadMedia, match="pixels"):
        inspect_media(data, LIMITS)


def test_aspect_ratio_is_limited() -> None:
    limits = MediaLimits(max_aspect_ratio=10)
    assert rgb(encoded(picture(100, 10)), limits).shape == (10, 100, 3)
    for size in ((101, 10), (10, 101)):
        with pytest.raises(BadMedia, match="one side may be at most 10 times the other"):
            rgb(encoded(picture(*size)), limits)


def test_tiles_of_one_picture_are_limited() -> None:
    with pytest.raises(BadMedia, match=r"open\.image: makes 7 tiles; at most 6"):
        decode_media(encoded(picture(600, 400)), IMAGE, MediaLimits(max_tiles=6))
