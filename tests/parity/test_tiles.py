"""Pixels of tiles, bit for bit, against a recipe of plain PIL and torch calls."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from vision_service.limits import MediaLimits
from vision_service.media import decode_media
from vision_service.options import ImageOptions
from vision_service.preprocessing import normalise
from vision_service.tiling import TilingOptions

SIZES = 520
LIMITS = MediaLimits()


def noise(width: int, height: int, seed: int) -> Image.Image:
    """Every pixel different, so that a misplaced one shows."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def reference_tiles(image: Image.Image, max_tiles: int, side: int) -> list[np.ndarray]:
    """The reference's own steps (InternVL-doc quick_start.md), written with PIL calls only."""
    ratio = image.width / image.height
    grids = {
        (i, j)
        for n in range(1, max_tiles + 1)
        for i in range(1, n + 1)
        for j in range(1, n + 1)
        if 1 <= i * j <= max_tiles
    }
    best, closest = (1, 1), float("inf")
    for grid in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        difference = abs(ratio - grid[0] / grid[1])
        if difference < closest:
            best, closest = grid, difference
        elif difference == closest and image.width * image.height > 0.5 * side * side * grid[0] * grid[1]:
            best = grid
    columns, rows = best
    stretched = image.resize((side * columns, side * rows))
    boxes = [
        (column * side, row * side, (column + 1) * side, (row + 1) * side)
        for row in range(rows)
        for column in range(columns)
    ]
    tiles = [stretched.crop(box) for box in boxes]
    if len(tiles) > 1:
        tiles.append(image.resize((side, side)))
    return [np.asarray(tile) for tile in tiles]


def random_sizes() -> Iterator[tuple[int, int, int, int]]:
    """(width, height, most tiles, tile side): mostly small tiles, some of the real 448 pixels."""
    draw = random.Random(20)
    for number in range(SIZES):
        side = 448 if number % 80 == 0 else draw.choice([28, 56, 112])
        longest = side * 4
        yield draw.randint(1, longest), draw.randint(1, longest), draw.choice([1, 4, 6, 12, 18, 24]), side


def test_tiles_of_random_sizes_are_bit_equal() -> None:
    compared = 0
    for seed, (width, height, max_tiles, side) in enumerate(random_sizes()):
        image = noise(width, height, seed)
        options = ImageOptions(TilingOptions(1, max_tiles, True, side))
        tiles = decode_media(png(image), options, MediaLimits(max_aspect_ratio=1e6)).tiles
        expected = reference_tiles(image, max_tiles, side)
        assert len(tiles) == len(expected), (width, height, max_tiles, side)
        assert np.array_equal(tiles, np.stack(expected)), (width, height, max_tiles, side)
        compared += 1
    assert compared >= 500


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
@pytest.mark.parametrize("size", [(37, 91), (120, 33)])
def test_other_colour_modes_are_converted_before_tiling(mode: str, size: tuple[int, int]) -> None:
    image = noise(*size, seed=5).convert(mode)
    file = io.BytesIO()
    image.save(file, "TIFF" if mode == "CMYK" else "PNG")
    tiles = decode_media(file.getvalue(), ImageOptions(TilingOptions(1, 6, True, 28)), LIMITS).tiles
    assert np.array_equal(tiles, np.stack(reference_tiles(image.convert("RGB"), 6, 28)))


def test_thumbnail_is_a_view_of_the_original() -> None:
    """Resizing the stretched picture instead would give other pixels."""
    image = noise(150, 70, seed=9)
    tiles = decode_media(png(image), ImageOptions(TilingOptions(1, 12, True, 56)), LIMITS).tiles
    assert np.array_equal(tiles[-1], np.asarray(image.resize((56, 56), Image.Resampling.BICUBIC)))


def test_normalisation_equals_torch_bit_for_bit() -> None:
    every_value = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    noisy = np.random.default_rng(3).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    tiles = np.concatenate([every_value, noisy])
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    expected = (torch.from_numpy(tiles).permute(0, 3, 1, 2).float().div(255) - mean).div(std)
    pixels = normalise(tiles)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    assert np.array_equal(pixels, expected.numpy())
