"""Dynamic tiling: which grid of square tiles a picture is cut into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
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
    *_, (_, closest) = _closest_so_far(width, height, options)
    return _grid(closest, options)


def plan_up_to(width: int, height: int, options: TilingOptions) -> list[TileGrid]:
    """`plan_image` for each `max_tiles` from 1 to that of `options`, with a `min_tiles` that is no larger.

    One pass answers for all that have the same `min_tiles`, since grids of fewer tiles come first.
    """
    below = [
        plan_image(width, height, replace(options, min_tiles=tiles, max_tiles=tiles))
        for tiles in range(1, options.min_tiles)
    ]
    closest = dict(_closest_so_far(width, height, options))
    return below + [_grid(grid, options) for grid in closest.values()]


def _closest_so_far(width: int, height: int, options: TilingOptions) -> Iterator[tuple[int, tuple[int, int]]]:
    """After each grid that may be chosen: how many tiles it has, and the choice up to here."""
    aspect_ratio = width / height
    closest, least_distance = (1, 1), float("inf")
    for columns, rows in candidate_grids(options.min_tiles, options.max_tiles):
        distance = abs(aspect_ratio - columns / rows)
        if distance < least_distance:
            closest, least_distance = (columns, rows), distance
        elif distance == least_distance and _fills(width * height, columns * rows, options.tile_size):
            closest = (columns, rows)
        yield columns * rows, closest


def _grid(shape: tuple[int, int], options: TilingOptions) -> TileGrid:
    columns, rows = shape
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
