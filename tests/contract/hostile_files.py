"""Files that mean harm, or look as if: made here, so that everybody can read what is in them."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.unit.media_samples import encoded, film, picture

# What may be said of a file; the rest of the message is its own.
DAMAGED = "the picture is damaged or cut short"
UNKNOWN = "unknown format; JPEG, PNG"
TOO_LARGE = "pixels; at most"
TOO_LONG = "pixels; one side may be at most"
BAD_FILM = "the film is damaged"
TOO_MUCH = "too much memory to decode; at most 256 MiB are given"
LEGAL = ""
"""It is odd, and decodes."""


@dataclass(frozen=True, slots=True)
class HostileFile:
    """A file and what becomes of it.

    Attributes:
        refusals: parts of the messages it may be refused with; LEGAL among them if it may be accepted.
        is_film: what it is sent as.
    """

    data: bytes
    refusals: tuple[str, ...]
    is_film: bool = False


def hostile_files() -> dict[str, HostileFile]:
    """The whole set, by readable names."""
    return {
        **_cut_pictures(),
        **_cut_films(),
        **_bombs(),
        **_strange_sizes(),
        **_bad_metadata(),
        **_disguises(),
        **_animations(),
        **_bad_films(),
    }


# -- cut at every header boundary ----------------------------------------------------------------------------


def _cut_pictures() -> dict[str, HostileFile]:
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


def _cut_films() -> dict[str, HostileFile]:
    mp4, webm = film(8), film(8, codec="libvpx-vp9", container="webm")
    cuts = {"mp4": _cut(mp4, _mp4_boxes), "webm": _cut(webm, lambda data: [4, 36, 48, 100, 250])}
    return {
        f"{name} cut at {end}": HostileFile(data, (BAD_FILM, UNKNOWN), is_film=True)
        for name, files in cuts.items()
        for end, data in files
    }


def _cut(data: bytes, boundaries) -> list[tuple[int, bytes]]:  # type: ignore[no-untyped-def]
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


# -- little that wants to be much ----------------------------------------------------------------------------


def _bombs() -> dict[str, HostileFile]:
    gif = bytearray(encoded(picture(), "GIF"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    bmp = bytearray(encoded(picture(), "BMP"))
    bmp[18:26] = struct.pack("<ii", 2**30, 2**30)
    jpeg = bytearray(encoded(picture(), "JPEG"))
    size_at = jpeg.index(b"\xff\xc0") + 5
    jpeg[size_at : size_at + 4] = struct.pack(">HH", 65000, 65000)
    flat = Image.new("L", (3000, 3000))
    return {
        "png that claims 60000 x 60000": HostileFile(_png_header(60_000, 60_000), (TOO_LARGE,)),
        "png that claims 2 billion x 1": HostileFile(_png_header(2**31 - 1, 1), (TOO_LARGE, DAMAGED)),
        "png of no width": HostileFile(_png_header(0, 50), (DAMAGED,)),
        "gif that claims 65535 x 65535": HostileFile(bytes(gif), (TOO_LARGE,)),
        "bmp that claims a billion squared": HostileFile(bytes(bmp), (TOO_LARGE, DAMAGED)),
        "jpeg that claims 65000 x 65000": HostileFile(bytes(jpeg), (TOO_LARGE,)),
        "tiff that claims 60000 x 60000": HostileFile(_tiff(60_000, 60_000), (TOO_LARGE,)),
        "png of 9 million black pixels": HostileFile(encoded(flat), (TOO_LARGE,)),
        "tiff of 9 million packed pixels": HostileFile(
            encoded(flat, "TIFF", compression="tiff_lzw"), (TOO_LARGE,)
        ),
        "png whose pixels never end": HostileFile(
            _png(40, 30, zlib.compress(bytes(40_000_000))), (DAMAGED, LEGAL)
        ),
        "jpeg of 100 scans": HostileFile(_many_scans(100), (DAMAGED, LEGAL)),
    }


def _many_scans(count: int) -> bytes:
    """A progressive picture whose last scan comes again and again: each costs as much as a whole picture."""
    data = encoded(picture(400, 300), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def _strange_sizes() -> dict[str, HostileFile]:
    return {
        "1 x 1": HostileFile(encoded(picture(1, 1)), (LEGAL,)),
        "1 x 200": HostileFile(encoded(picture(1, 200)), (LEGAL,)),
        "1 x 10000": HostileFile(encoded(picture(1, 10_000)), (TOO_LONG,)),
        "10000 x 1": HostileFile(encoded(picture(10_000, 1), "JPEG"), (TOO_LONG,)),
    }


# -- what stands beside the pixels ---------------------------------------------------------------------------


def _bad_metadata() -> dict[str, HostileFile]:
    text = zlib.compress(b"a" * 20_000_000)
    loop = b"Exif\0\0II*\0\x08\0\0\0" + b"\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0" + b"\x08\0\0\0"
    deep = _tiff(40, 30, next_ifd=8)
    return {
        "png with 20 MB of compressed text": HostileFile(
            _with_chunk(b"zTXt", b"Comment\0\0" + text), (DAMAGED, LEGAL)
        ),
        "png with 20 MB of international text": HostileFile(
            _with_chunk(b"iTXt", b"Comment\0\x01\0\0\0" + text), (DAMAGED, LEGAL)
        ),
        "png with 2000 text chunks": HostileFile(_with_chunk(b"tEXt", b"Key\0value", times=2000), (LEGAL,)),
        "png with a colour profile that unpacks to 20 MB": HostileFile(
            _with_chunk(b"iCCP", b"p\0\0" + text), (DAMAGED, LEGAL)
        ),
        "png with a chunk that claims 2 GB": HostileFile(
            encoded(picture())[:33] + struct.pack(">I", 2**31 - 1) + b"tEXt" + bytes(99), (DAMAGED,)
        ),
        "jpeg with EXIF that points at itself": HostileFile(encoded(picture(), "JPEG", exif=loop), (LEGAL,)),
        "jpeg with EXIF of noise": HostileFile(
            encoded(picture(), "JPEG", exif=b"Exif\0\0" + np.random.default_rng(1).bytes(5000)), (LEGAL,)
        ),
        "jpeg with a colour profile of noise": HostileFile(
            encoded(picture(), "JPEG", icc_profile=np.random.default_rng(2).bytes(5000)), (LEGAL,)
        ),
        "tiff whose directory follows itself": HostileFile(deep, (LEGAL, DAMAGED)),
        "tiff whose directory lies beyond its end": HostileFile(b"II*\0\xff\xff\xff\x7f", (DAMAGED,)),
        "tiff of 3000 directories": HostileFile(_deep_tiff(3000), (LEGAL, DAMAGED)),
        "tiff with 65535 entries": HostileFile(b"II*\0\x08\0\0\0\xff\xff" + bytes(12 * 65535), (DAMAGED,)),
    }


# -- not what it says ----------------------------------------------------------------------------------------


def _disguises() -> dict[str, HostileFile]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb", bytes(5_000_000))
    bare = {
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "html": b"<!doctype html><script>alert(1)</script>",
        "pdf": b"%PDF-1.7\n1 0 obj<<>>endobj trailer<<>>",
        "zip": archive.getvalue(),
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run",
        "m3u8 playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "ffconcat": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "photoshop": b"8BPS\0\x01" + bytes(40),
        "avif": b"\0\0\0\x20ftypavif" + bytes(90),
        "matroska that is no webm": b"\x1a\x45\xdf\xa3\x42\x82\x88matroska" + bytes(90),
        "python pickle": b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
        "zeros": bytes(4000),
    }
    photo = encoded(picture())
    return {
        **{name: HostileFile(data, (UNKNOWN,)) for name, data in bare.items()},
        "empty": HostileFile(b"", ("the file is empty",)),
        "one byte": HostileFile(b"\x89", (UNKNOWN,)),
        "gif signature on a png": HostileFile(b"GIF89a" + photo, (DAMAGED, TOO_LARGE, TOO_LONG)),
        "jpeg signature on a png": HostileFile(b"\xff\xd8\xff" + photo, (DAMAGED,)),
        "bmp signature on html": HostileFile(b"BM" + bare["html"], (DAMAGED,)),
        "mp4 signature on a playlist": HostileFile(
            b"\0\0\0\x10ftypisom\0\0\0\0" + bare["m3u8 playlist"], (BAD_FILM,), is_film=True
        ),
        "png that is a zip, too": HostileFile(photo + bare["zip"], (LEGAL,)),
        "png that is html, too": HostileFile(photo + bare["html"], (LEGAL,)),
        "film sent as a picture": HostileFile(film(3), ("expected a picture, found a film (video/mp4)",)),
        "picture sent as a film": HostileFile(photo, ("expected a film, found a picture",), is_film=True),
    }


# -- things that move ----------------------------------------------------------------------------------------


def _animations() -> dict[str, HostileFile]:
    frames = [picture(20, 20, seed=number) for number in range(60)]
    endless = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], loop=0, duration=0)
    header = encoded(picture(20, 20), "GIF")[:13]
    return {
        "gif that loops for ever": HostileFile(endless, (LEGAL,)),
        "gif without its end": HostileFile(endless[:-1], (LEGAL,)),
        "gif of no frames": HostileFile(header[:10] + b"\0\0\0;", (DAMAGED,)),
        "gif of 100000 empty extensions": HostileFile(
            header[:10] + b"\0\0\0" + b"!\xfe\x01x\0" * 100_000 + b";", (DAMAGED,)
        ),
        "webp animation": HostileFile(
            encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:9]), (LEGAL,)
        ),
        "png animation": HostileFile(
            encoded(frames[0], "PNG", save_all=True, append_images=frames[1:9]), (LEGAL,)
        ),
    }


def _bad_films() -> dict[str, HostileFile]:
    good, mpeg4 = film(12), film(12, codec="mpeg4")
    damaged = {
        "mp4 of noise": good[:40] + np.random.default_rng(3).bytes(3000),
        "mp4 without a directory": good.replace(b"moov", b"free"),
        "mp4 without samples": good.replace(b"stsz", b"free"),
        "mp4 whose samples lie beyond its end": _patched(good, b"stco", 8, struct.pack(">I", 2**31)),
        "mp4 that claims 4 billion samples": _patched(good, b"stsz", 8, struct.pack(">I", 2**32 - 1)),
        "mp4 that claims 4 billion times": _patched(good, b"stts", 4, struct.pack(">I", 2**32 - 1)),
        "mp4 of an unknown codec": good.replace(b"avc1", b"xyz9"),
        "mp4 of no codec settings": good.replace(b"avcC", b"free"),
        "mp4 within itself": good.replace(b"trak", b"moov"),
        "mp4 with a box of no length": _patched(good, b"moov", -8, bytes(4)),
        "mpeg4 of bytes turned over": _turned(mpeg4, step=37),
        "webm of bytes turned over": _turned(film(12, codec="libvpx", container="webm"), step=41),
        "webm of no clusters": film(12, codec="libvpx", container="webm").split(b"\x1f\x43\xb6\x75")[0],
    }
    return {
        **{
            name: HostileFile(data, (BAD_FILM, TOO_MUCH, LEGAL), is_film=True)
            for name, data in damaged.items()
        },
        "mp4 that runs for a year": HostileFile(
            _patched(good, b"mdhd", 12, struct.pack(">II", 1, 31_000_000)),
            ("the film runs", LEGAL),
            is_film=True,
        ),
        "mp4 whose frames last for ever": HostileFile(
            _patched(good, b"stts", 12, struct.pack(">I", 2**31 - 1)),
            ("the film runs", BAD_FILM),
            is_film=True,
        ),
        "mp4 that claims 65535 x 65535": HostileFile(
            _patched(good, b"avc1", 28, struct.pack(">HH", 65535, 65535)), (TOO_LARGE, LEGAL), is_film=True
        ),
        "mp4 of too many frames": HostileFile(
            film(1300, codec="mpeg4", size=(16, 16)), ("has more than 1000 frames",), is_film=True
        ),
    }


def _patched(data: bytes, box: bytes, offset: int, value: bytes) -> bytes:
    """Other bytes at `offset` behind the name of an mp4 box."""
    at = data.rindex(box) + 4 + offset
    return data[:at] + value + data[at + len(value) :]


def _turned(data: bytes, step: int) -> bytes:
    damaged = bytearray(data)
    for at in range(600, len(damaged), step):
        damaged[at] ^= 0x5A
    return bytes(damaged)


# -- the smallest files of a format --------------------------------------------------------------------------


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, pixels: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _png_header(width: int, height: int) -> bytes:
    return _png(width, height, zlib.compress(bytes(9)))


def _with_chunk(kind: bytes, content: bytes, times: int = 1) -> bytes:
    photo = encoded(picture())
    return photo[:33] + _chunk(kind, content) * times + photo[33:]


def _directory(width: int, height: int, next_ifd: int) -> bytes:
    """A TIFF directory of one uncompressed grey strip at byte 8."""
    entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    entries.append((279, width * height & 0xFFFFFFFF))
    packed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return struct.pack("<H", len(entries)) + packed + struct.pack("<I", next_ifd)


def _tiff(width: int, height: int, next_ifd: int = 0) -> bytes:
    return b"II*\0\x08\0\0\0" + _directory(width, height, next_ifd) + bytes(1200)


def _deep_tiff(count: int) -> bytes:
    size = len(_directory(40, 30, 0))
    return b"II*\0\x08\0\0\0" + b"".join(
        _directory(40, 30, 8 + size * (number + 1) if number + 1 < count else 0) for number in range(count)
    )
