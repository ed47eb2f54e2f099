"""Pictures to normalised patches, exactly as InternVL2 preprocesses them (its `dynamic_preprocess`)."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.recipe.drawing import Picture
from models.recipe.geometry import GRID, MAX_TILES, PATCH, TILE, choose_grid

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
READABLE = (13.0, 64.0)
LABELS = 4


def tile_image(image: Image.Image, max_tiles: int = MAX_TILES) -> list[Image.Image]:
    """Tiles row by row, then the thumbnail when there is more than one tile."""
    image = image.convert("RGB")
    columns, rows = choose_grid(*image.size, max_tiles)
    resized = image.resize((TILE * columns, TILE * rows))
    tiles = [
        resized.crop((c * TILE, r * TILE, (c + 1) * TILE, (r + 1) * TILE))
        for r in range(rows)
        for c in range(columns)
    ]
    if len(tiles) > 1:
        tiles.append(image.resize((TILE, TILE)))
    return tiles


def patches(tiles: list[Image.Image]) -> NDArray[np.float32]:
    """Normalised patches, float32 [tiles, 64, 3 * 14 * 14], channel first inside a patch like the conv
    weight."""
    pixels = np.stack([np.asarray(tile) for tile in tiles]).astype(np.float32)
    pixels = (pixels / 255.0 - MEAN) / STD
    split = pixels.reshape(len(tiles), GRID, PATCH, GRID, PATCH, 3).transpose(0, 1, 3, 5, 2, 4)
    return np.ascontiguousarray(split).reshape(len(tiles), GRID * GRID, 3 * PATCH * PATCH)


def _view_labels(
    picture: Picture, left: float, top: float, step_x: float, step_y: float
) -> NDArray[np.int64]:
    """Labels [64, 4] of one view: what covers each patch centre.

    Texts too small or too large for the view count as none, and a part of a picture cannot tell which of
    several equal shapes it sees.
    """
    height, width = picture.index.shape
    whole = step_x * TILE >= width and step_y * TILE >= height
    x = np.clip((left + (np.arange(GRID) * PATCH + PATCH / 2) * step_x).astype(int), 0, width - 1)
    y = np.clip((top + (np.arange(GRID) * PATCH + PATCH / 2) * step_y).astype(int), 0, height - 1)
    table = np.array(
        [
            (m.shape, m.colour, m.character, m.ordinal if whole or m.character else 0)
            if not m.character or READABLE[0] <= m.height / step_y <= READABLE[1]
            else (0, 0, 0, 0)
            for m in picture.marks
        ],
        np.int64,
    )
    return np.asarray(table[picture.index[np.ix_(y, x)].reshape(-1)])


def tile_labels(picture: Picture, max_tiles: int = MAX_TILES) -> NDArray[np.int64]:
    """Dense labels [tiles, 64, 4] (shape, colour, character, ordinal) in the order of `tile_image`."""
    height, width = picture.index.shape
    columns, rows = choose_grid(width, height, max_tiles)
    step_x, step_y = width / (TILE * columns), height / (TILE * rows)
    views = [
        _view_labels(picture, c * TILE * step_x, r * TILE * step_y, step_x, step_y)
        for r in range(rows)
        for c in range(columns)
    ]
    if len(views) > 1:
        views.append(_view_labels(picture, 0, 0, width / TILE, height / TILE))
    return np.stack(views)
