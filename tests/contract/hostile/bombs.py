"""Pictures of sizes that nobody expects: little that wants to be much."""

from __future__ import annotations

import struct
import zlib

from PIL import Image

from tests.contract.hostile.files import DAMAGED, LEGAL, TOO_LARGE, TOO_LONG, HostileFile
from tests.contract.hostile.smallest import png, png_header, tiff
from tests.unit.media_samples import encoded, picture


def bombs() -> dict[str, HostileFile]:
    gif = bytearray(encoded(picture(), "GIF"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    bmp = bytearray(encoded(picture(), "BMP"))
    bmp[18:26] = struct.pack("<ii", 2**30, 2**30)
    jpeg = bytearray(encoded(picture(), "JPEG"))
    size_at = jpeg.index(b"\xff\xc0") + 5
    jpeg[size_at : size_at + 4] = struct.pack(">HH", 65000, 65000)
    flat = Image.new("L", (3000, 3000))
    return {
        "png that claims 60000 x 60000": HostileFile(png_header(60_000, 60_000), (TOO_LARGE,)),
        "png that claims 2 billion x 1": HostileFile(png_header(2**31 - 1, 1), (TOO_LARGE, DAMAGED)),
        "png of no width": HostileFile(png_header(0, 50), (DAMAGED,)),
        "gif that claims 65535 x 65535": HostileFile(bytes(gif), (TOO_LARGE,)),
        "bmp that claims a billion squared": HostileFile(bytes(bmp), (TOO_LARGE, DAMAGED)),
        "jpeg that claims 65000 x 65000": HostileFile(bytes(jpeg), (TOO_LARGE,)),
        "tiff that claims 60000 x 60000": HostileFile(tiff(60_000, 60_000), (TOO_LARGE,)),
        "png of 9 million black pixels": HostileFile(encoded(flat), (TOO_LARGE,)),
        "tiff of 9 million packed pixels": HostileFile(
            encoded(flat, "TIFF", compression="tiff_lzw"), (TOO_LARGE,)
        ),
        "png whose pixels never end": HostileFile(
            png(40, 30, zlib.compress(bytes(40_000_000))), (DAMAGED, LEGAL)
        ),
        "jpeg of 100 scans": HostileFile(_many_scans(100), (DAMAGED, LEGAL)),
    }


def _many_scans(count: int) -> bytes:
    """A progressive picture whose last scan comes again and again: each costs as much as a whole picture."""
    data = encoded(picture(400, 300), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def strange_sizes() -> dict[str, HostileFile]:
    return {
        "1 x 1": HostileFile(encoded(picture(1, 1)), (LEGAL,)),
        "1 x 200": HostileFile(encoded(picture(1, 200)), (LEGAL,)),
        "1 x 10000": HostileFile(encoded(picture(1, 10_000)), (TOO_LONG,)),
        "10000 x 1": HostileFile(encoded(picture(10_000, 1), "JPEG"), (TOO_LONG,)),
    }
