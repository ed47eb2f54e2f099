"""From an RGB picture to what the vision tower reads, with PIL's own resampling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vision_service.tiling import TileGrid

PREPROCESSING_VERSION = "2"
"""Part of every `visual_id`: raise it whenever the same file would give other pixels."""

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
"""Of ImageNet, by channel R, G, B (InternVL constants.py)."""


def cut_tiles(image: Image.Image, grid: TileGrid, tile_size: int) -> NDArray[np.uint8]:
    """Cut an RGB picture into its tiles (InternVL dataset.py, dynamic_preprocess).

    The picture is stretched over the whole grid (bicubic, antialiased), then cropped row by row. The
    thumbnail is a resize of the original picture, not of the stretched one.

    Returns:
        [tiles, tile_size, tile_size, 3], thumbnail last.
    """
    stretched = image.resize((tile_size * grid.columns, tile_size * grid.rows), Image.Resampling.BICUBIC)
    pixels = np.asarray(stretched).reshape(grid.rows, tile_size, grid.columns, tile_size, 3)
    tiles = pixels.transpose(0, 2, 1, 3, 4).reshape(-1, tile_size, tile_size, 3)
    if not grid.thumbnail:
        return np.ascontiguousarray(tiles)
    thumbnail = image.resize((tile_size, tile_size), Image.Resampling.BICUBIC)
    return np.concatenate([tiles, np.asarray(thumbnail)[None]])


def normalise(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scale by 1/255, subtract the mean, divide by the deviation: float32, in that order.

    Args:
        tiles: [tiles, S, S, 3].

    Returns:
        [tiles, 3, S, S].
    """
    count, height, width, channels = tiles.shape
    pixels = np.empty((count, channels, height, width), np.float32)
    pixels[...] = tiles.transpose(0, 3, 1, 2)
    pixels /= np.float32(255)
    pixels -= MEAN[:, None, None]
    pixels /= STD[:, None, None]
    return pixels
