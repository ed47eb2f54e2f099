"""Dynamic tiling: which grid of square tiles a picture is cut into."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class TilingOptions:
    """How to tile one picture.

    Attributes:
        min_tiles: fewest tiles of the grid, without the thumbnail.
        max_tiles: most tiles of the grid, without the thumbnail; at least `min_tiles`.
        thumbnail: whether a view of the whole picture follows a grid of more than one tile.
        tile_size: side of a tile in pixels.
    """

    min_tiles: int
    max_tiles: int
    thumbnail: bool
    tile_size: int


@dataclass(frozen=True, slots=True)
class TileGrid:
    """The tiles of one picture or frame; tiles run row by row, the thumbnail last."""

    columns: int
    rows: int
    thumbnail: bool

    @property
    def tiles(self) -> int:
        """Tiles in all, thumbnail included."""
        return self.columns * self.rows + self.thumbnail


def plan_image(width: int, height: int, options: TilingOptions) -> TileGrid:
    """Choose the grid for a picture of `width` x `height` pixels (InternVL dataset.py, dynamic_preprocess).

    The grid whose aspect ratio is closest to the picture's wins. Of equally close ones the smallest wins,
    unless the picture has more than half the pixels of a larger one: then the larger does. Ratios are
    compared as float64, as in the reference, so that ties fall the same way.
    """
    aspect_ratio = width / height
    best, best_distance = (1, 1), float("inf")
    for columns, rows in candidate_grids(options.min_tiles, options.max_tiles):
        distance = abs(aspect_ratio - columns / rows)
        if distance < best_distance:
            best, best_distance = (columns, rows), distance
        elif distance == best_distance and _fills(width * height, columns * rows, options.tile_size):
            best = (columns, rows)
    columns, rows = best
    return TileGrid(columns, rows, thumbnail=options.thumbnail and columns * rows > 1)


@lru_cache(maxsize=128)
def candidate_grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """All (columns, rows) of `min_tiles` to `max_tiles` tiles, fewest tiles first."""
    grids = [
        (columns, rows)
        for columns in range(1, max_tiles + 1)
        for rows in range(1, max_tiles // columns + 1)
        if columns * rows >= min_tiles
    ]
    return tuple(sorted(grids, key=lambda grid: (grid[0] * grid[1], grid)))


def _fills(pixels: int, tiles: int, tile_size: int) -> bool:
    return pixels > 0.5 * tile_size * tile_size * tiles
