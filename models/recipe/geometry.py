"""Tile geometry of nano: sizes and the choice of the tile grid."""

from functools import lru_cache

TILE, PATCH = 112, 14
GRID = TILE // PATCH
MAX_TILES = 6
VISUAL_TOKENS = (GRID // 2) ** 2


@lru_cache(maxsize=4096)
def choose_grid(width: int, height: int, max_tiles: int = MAX_TILES) -> tuple[int, int]:
    """(columns, rows) closest in aspect; a tie goes to the larger grid when the image has the pixels for half
    of it."""
    pairs = {(c, r) for c in range(1, max_tiles + 1) for r in range(1, max_tiles + 1) if c * r <= max_tiles}
    best, best_gap = (1, 1), float("inf")
    for columns, rows in sorted(pairs, key=lambda p: p[0] * p[1]):
        gap = abs(width / height - columns / rows)
        larger = width * height > 0.5 * TILE * TILE * columns * rows
        if gap < best_gap or (gap == best_gap and larger):
            best, best_gap = (columns, rows), gap
    return best
