"""Harm in what stands beside the pixels."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from tests.contract.hostile.files import DAMAGED, LEGAL, HostileFile
from tests.contract.hostile.smallest import deep_tiff, tiff, with_chunk
from tests.unit.media_samples import encoded, picture


def bad_metadata() -> dict[str, HostileFile]:
    text = zlib.compress(b"a" * 20_000_000)
    loop = b"Exif\0\0II*\0\x08\0\0\0" + b"\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0" + b"\x08\0\0\0"
    deep = tiff(40, 30, next_ifd=8)
    return {
        "png with 20 MB of compressed text": HostileFile(
            with_chunk(b"zTXt", b"Comment\0\0" + text), (DAMAGED, LEGAL)
        ),
        "png with 20 MB of international text": HostileFile(
            with_chunk(b"iTXt", b"Comment\0\x01\0\0\0" + text), (DAMAGED, LEGAL)
        ),
        "png with 2000 text chunks": HostileFile(with_chunk(b"tEXt", b"Key\0value", times=2000), (LEGAL,)),
        "png with a colour profile that unpacks to 20 MB": HostileFile(
            with_chunk(b"iCCP", b"p\0\0" + text), (DAMAGED, LEGAL)
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
        "tiff of 3000 directories": HostileFile(deep_tiff(3000), (LEGAL, DAMAGED)),
        "tiff with 65535 entries": HostileFile(b"II*\0\x08\0\0\0\xff\xff" + bytes(12 * 65535), (DAMAGED,)),
    }
