"""Files that end at a boundary of their headers."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator

from tests.contract.hostile.files import BAD_FILM, DAMAGED, UNKNOWN, HostileFile
from tests.unit.media_samples import encoded, film, picture


def cut_pictures() -> dict[str, HostileFile]:
    cuts = {
        "jpeg": _cut(encoded(picture(), "JPEG"), _jpeg_segments),
        "png": _cut(encoded(picture()), _png_chunks),
        "webp": _cut(
            encoded(picture(), "WEBP", lossless=True), lambda data: [12, 16, 20, 25, len(data) // 2]
        ),
        "gif": _cut(encoded(picture(), "GIF"), lambda data: [6, 10, 13, 13 + 3 * 256, len(data) // 2]),
        "bmp": _cut(encoded(picture(), "BMP"), lambda data: [2, 14, 18, 54, len(data) // 2]),
        "tiff": _cut(encoded(picture(), "TIFF"), lambda data: [4, 8, 10, 12, 60, len(data) // 2]),
    }
    return {
        f"{name} cut at {end}": HostileFile(data, (DAMAGED, UNKNOWN))
        for name, files in cuts.items()
        for end, data in files
    }


def cut_films() -> dict[str, HostileFile]:
    mp4, webm = film(8), film(8, codec="libvpx-vp9", container="webm")
    cuts = {"mp4": _cut(mp4, _mp4_boxes), "webm": _cut(webm, lambda data: [4, 36, 48, 100, 250])}
    return {
        f"{name} cut at {end}": HostileFile(data, (BAD_FILM, UNKNOWN), is_film=True)
        for name, files in cuts.items()
        for end, data in files
    }


def _cut(data: bytes, boundaries: Callable[[bytes], Iterable[int]]) -> list[tuple[int, bytes]]:
    return [(end, data[:end]) for end in boundaries(data) if 0 < end < len(data)]


def _jpeg_segments(data: bytes) -> Iterator[int]:
    at = 2
    while data[at + 1] != 0xDA:  # up to the start of scan
        yield at
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    yield at


def _png_chunks(data: bytes) -> Iterator[int]:
    at = 8
    while data[at + 4 : at + 8] != b"IEND":
        yield at
        yield at + 8
        at += 12 + struct.unpack_from(">I", data, at)[0]


def _mp4_boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[int]:
    at = start
    while at + 8 <= (end or len(data)):
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"udta":  # all that follows is for people
            return
        yield at + 8
        if kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
            yield from _mp4_boxes(data, at + 8, at + size)
        at += size
