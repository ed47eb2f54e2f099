"""Odd pictures packed by hand, bit by bit, against the colours that their formats define."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from internvl.errors import BadMedia
from vision_service.image import open_image
from vision_service.limits import MediaLimits
from vision_service.media import detect_type

HEIGHT, WIDTH = 24, 36
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
KINDS = [
    *((GREY, bits) for bits in (1, 2, 4, 8, 16)),
    *((PALETTE, bits) for bits in (1, 2, 4, 8)),
    *((kind, bits) for kind in (RGB, GREY_ALPHA, RGBA) for bits in (8, 16)),
]


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(open_image(data, detect_type(data).decoder, MediaLimits()))


def samples(channels: int, bits: int) -> np.ndarray:
    """[HEIGHT, WIDTH, channels], over the whole range."""
    return np.random.default_rng(bits).integers(0, 2**bits, (HEIGHT, WIDTH, channels))


def png(kind: int, bits: int, values: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG by the letter of its specification: no filter, no interlacing."""
    rows = values.reshape(len(values), -1)
    if bits == 16:
        packed = [row.astype(">u2").tobytes() for row in rows]
    else:
        bit_rows = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        packed = [np.packbits(row.reshape(-1)).tobytes() for row in bit_rows.astype(np.uint8)]
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in packed))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
    )


def palette(bits: int) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 256, (2**bits, 3))


def to_8_bits(values: np.ndarray, bits: int) -> np.ndarray:
    return values >> 8 if bits == 16 else values * 255 // (2**bits - 1)


def over_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """[..., 3] colours and [..., 1] alpha of 0 to 255."""
    return colours * (alpha / 255) + 255 * (1 - alpha / 255)


@pytest.mark.parametrize(("kind", "bits"), KINDS)
def test_every_kind_of_png(kind: int, bits: int) -> None:
    values = samples(CHANNELS[kind], bits)
    table = palette(bits) if kind == PALETTE else None
    chunks = [] if table is None else [(b"PLTE", table.astype(np.uint8).tobytes())]
    found = decoded(png(kind, bits, values, *chunks))
    if table is not None:
        expected = table[values[..., 0]]
    else:
        levels = to_8_bits(values, bits)
        has_alpha = kind in (GREY_ALPHA, RGBA)
        colours = levels[..., :-1] if has_alpha else levels
        expected = np.broadcast_to(colours, (HEIGHT, WIDTH, 3))
        if has_alpha:
            expected = over_white(expected, levels[..., -1:])
            assert np.abs(found - expected).max() <= 1
            return
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(("kind", "bits"), [(GREY, 1), (GREY, 4), (GREY, 8), (GREY, 16), (RGB, 8)])
def test_one_transparent_colour_of_a_png_is_white(kind: int, bits: int) -> None:
    values = samples(CHANNELS[kind], bits)
    chosen = values[5, 7]
    found = decoded(png(kind, bits, values, (b"tRNS", struct.pack(f">{len(chosen)}H", *chosen))))
    expected = np.broadcast_to(to_8_bits(values, bits), (HEIGHT, WIDTH, 3)).copy()
    expected[np.all(values == chosen, axis=-1)] = 255
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_transparent_palette_entries_of_a_png(bits: int) -> None:
    values, table = samples(1, bits), palette(bits)
    alpha = np.linspace(0, 255, 2**bits).astype(np.uint8)
    chunks = ((b"PLTE", table.astype(np.uint8).tobytes()), (b"tRNS", alpha.tobytes()))
    found = decoded(png(PALETTE, bits, values, *chunks))
    expected = over_white(table[values[..., 0]], alpha[values])
    assert np.abs(found - expected).max() <= 1


def bmp(bits: int, rows: list[bytes], table: np.ndarray | None = None, *, top_down: bool = False) -> bytes:
    """An uncompressed BMP; `rows` from the top."""
    padded = [row + bytes(-len(row) % 4) for row in (rows if top_down else rows[::-1])]
    colours = b"" if table is None else b"".join(bytes([*entry[::-1], 0]) for entry in table.tolist())
    start = 54 + len(colours)
    pixels = b"".join(padded)
    size = (WIDTH, -HEIGHT if top_down else HEIGHT)
    header = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, 0, len(pixels), 0, 0, len(colours) // 4, 0)
    return struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start) + header + colours + pixels


@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize("bits", [1, 4, 8, 24])
def test_every_kind_of_bmp(bits: int, top_down: bool) -> None:
    if bits == 24:
        expected = samples(3, 8)
        rows = [row[:, ::-1].astype(np.uint8).tobytes() for row in expected]
        assert np.array_equal(decoded(bmp(24, rows, top_down=top_down)), expected)
        return
    values, table = samples(1, bits)[..., 0], palette(bits)
    bit_rows = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    rows = [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in bit_rows]
    assert np.array_equal(decoded(bmp(bits, rows, table, top_down=top_down)), table[values])


def tiff(photometric: int, bits: int, values: np.ndarray, order: str) -> bytes:
    """An uncompressed TIFF of one strip, little- ("<") or big-endian (">")."""
    channels = values.shape[-1]
    pixels = values.astype(f"{order}u{bits // 8}").tobytes()
    entries = [(256, WIDTH), (257, HEIGHT), (259, 1), (262, photometric), (277, channels), (278, HEIGHT)]
    directory = 8 + 2 + 12 * (len(entries) + 3) + 4
    entries += [(273, directory + 2 * channels), (279, len(pixels))]
    packed = [(tag, struct.pack(f"{order}HHII", tag, 4, 1, value)) for tag, value in entries]
    sizes = directory if channels > 2 else bits if order == "<" else bits << 16
    packed.append((258, struct.pack(f"{order}HHII", 258, 3, channels, sizes)))
    signature = b"II*\0" if order == "<" else b"MM\0*"
    return b"".join(
        [
            signature + struct.pack(f"{order}IH", 8, len(packed)),
            *(entry for _, entry in sorted(packed)),
            struct.pack(f"{order}I", 0),
            struct.pack(f"{order}{channels}H", *[bits] * channels),
            pixels,
        ]
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["black is zero", "white is zero", "rgb", "cmyk"])
def test_every_kind_of_tiff(kind: str, bits: int, order: str) -> None:
    photometric, channels = {"white is zero": (0, 1), "black is zero": (1, 1), "rgb": (2, 3), "cmyk": (5, 4)}[
        kind
    ]
    values = samples(channels, bits)
    data = tiff(photometric, bits, values, order)
    if (kind, bits, order) == ("white is zero", 16, ">"):  # unknown to Pillow; refused rather than guessed
        with pytest.raises(BadMedia):
            decoded(data)
        return
    found = decoded(data)
    levels = to_8_bits(values, bits)
    if kind == "cmyk":
        ink, black = levels[..., :3], levels[..., 3:]
        assert np.abs(found - (255 - ink) * (255 - black) / 255).max() <= 1
        return
    if kind == "white is zero":
        levels = 255 - levels
    assert np.array_equal(found, np.broadcast_to(levels, (HEIGHT, WIDTH, 3)))
