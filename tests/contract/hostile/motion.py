"""Animations without end, and films with lies in every box."""

from __future__ import annotations

import struct

import numpy as np

from tests.contract.hostile.files import BAD_FILM, DAMAGED, LEGAL, TOO_LARGE, TOO_MUCH, HostileFile
from tests.unit.media_samples import encoded, film, picture


def animations() -> dict[str, HostileFile]:
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


def bad_films() -> dict[str, HostileFile]:
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
