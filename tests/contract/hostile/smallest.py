"""The smallest files of a format, with room for a lie."""

from __future__ import annotations

import struct
import zlib

from tests.unit.media_samples import encoded, picture


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, pixels: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def png_header(width: int, height: int) -> bytes:
    return png(width, height, zlib.compress(bytes(9)))


def with_chunk(kind: bytes, content: bytes, times: int = 1) -> bytes:
    photo = encoded(picture())
    return photo[:33] + _chunk(kind, content) * times + photo[33:]


def _directory(width: int, height: int, next_ifd: int) -> bytes:
    """A TIFF directory of one uncompressed grey strip at byte 8."""
    entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    entries.append((279, width * height & 0xFFFFFFFF))
    packed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return struct.pack("<H", len(entries)) + packed + struct.pack("<I", next_ifd)


def tiff(width: int, height: int, next_ifd: int = 0) -> bytes:
    return b"II*\0\x08\0\0\0" + _directory(width, height, next_ifd) + bytes(1200)


def deep_tiff(count: int) -> bytes:
    size = len(_directory(40, 30, 0))
    return b"II*\0\x08\0\0\0" + b"".join(
        _directory(40, 30, 8 + size * (number + 1) if number + 1 < count else 0) for number in range(count)
    )
