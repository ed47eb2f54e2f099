"""Pictures and films for tests, made in memory."""

from __future__ import annotations

import io
import re
from typing import Any

import av
import numpy as np
from PIL import Image

STEP = 6
"""Grey level between one frame of a film and the next, so that a frame says its number."""

# Texts of libraries, addresses and paths; every message of ours is made of other characters and words.
LEAK = re.compile(
    r"0x[0-9a-f]+|[\\<>{}]|\.(py|cc|c|so)\b|/\w+/|Errno|PIL|Pillow|ffmpeg|libav|\bav\b|decord|Traceback"
    r"|cannot identify|Invalid data|broken data|passwd",
    re.IGNORECASE,
)


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """Random RGB pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def film(
    frames: int = 40,
    *,
    codec: str = "libx264",
    container: str = "mp4",
    rate: int = 10,
    size: tuple[int, int] = (64, 48),
    muxer: dict[str, str] | None = None,
) -> bytes:
    """A film whose frame number n is grey of level n * STEP."""
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=muxer or {}) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = {"mjpeg": "yuvj420p", "prores_ks": "yuv422p10le"}.get(codec, "yuv420p")
        if codec == "mpeg4":  # its default blurs the grey levels
            stream.bit_rate = 4_000_000
        for number in range(frames):
            pixels = np.full((size[1], size[0], 3), number * STEP % 256, np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode())
    return file.getvalue()


def timeless_film(frames: int) -> bytes:
    """`film` with one time for all frames."""
    data = film(frames, codec="mpeg4")
    durations = data.index(b"stts") + 16
    return data[:durations] + bytes(4) + data[durations + 4 :]


def live_film(frames: int) -> bytes:
    """`film` as a browser records it: a WebM whose header knows neither duration nor rate."""
    return _unfinished(film(frames, codec="libvpx", container="webm", muxer={"live": "1"}))


def _unfinished(data: bytes) -> bytes:
    """Without the element DefaultDuration, in whose place stands a Void of the same length."""
    at = data.index(b"\x23\xe3\x83")
    length = 4 + (data[at + 3] & 0x7F)
    return data[:at] + bytes([0xEC, 0x80 | (length - 2)]) + bytes(length - 2) + data[at + length :]


def frame_numbers(tiles: np.ndarray) -> list[int]:
    """Which frames of `film` these tiles show."""
    return [round(level / STEP) for level in tiles.mean(axis=(1, 2, 3))]
