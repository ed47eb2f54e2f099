"""The grid of a picture: known choices of the reference, and the rule against another form of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vision_service.options import ImageOptions, VideoOptions, count_tiles, plan_media
from vision_service.tiling import TileGrid, TilingOptions, candidate_grids, plan_image, plan_up_to

GOLDEN = {
    (640, 480): [(3, 2), (4, 3), (4, 3), (4, 3)],
    (1920, 1080): [(2, 1), (4, 2), (5, 3), (5, 3)],
    (448, 448): [(1, 1), (1, 1), (1, 1), (1, 1)],
    (600, 600): [(1, 1), (1, 1), (1, 1), (1, 1)],
    (900, 900): [(2, 2), (2, 2), (2, 2), (2, 2)],
    (3000, 1000): [(3, 1), (6, 2), (6, 2), (6, 2)],
    (4000, 500): [(6, 1), (8, 1), (8, 1), (8, 1)],
    (2048, 743): [(3, 1), (6, 2), (6, 2), (8, 3)],
    (500, 4000): [(1, 6), (1, 8), (1, 8), (1, 8)],
}

GRIDS = [(columns, rows) for columns in range(1, 41) for rows in range(1, 41) if columns * rows <= 40]

sides = st.integers(1, 5000)


@st.composite
def tilings(draw: st.DrawFn) -> TilingOptions:
    least = draw(st.integers(1, 40))
    most = draw(st.integers(least, 40))
    return TilingOptions(least, most, draw(st.booleans()), draw(st.sampled_from([28, 112, 448])))


def closest_grid(width: int, height: int, options: TilingOptions) -> tuple[int, int]:
    """The rule as a choice: the largest tied grid that the picture half fills, else the smallest."""
    grids = [(c, r) for c, r in GRIDS if options.min_tiles <= c * r <= options.max_tiles]
    distance = {grid: abs(width / height - grid[0] / grid[1]) for grid in grids}
    nearest = min(distance.values())
    tied = sorted((c * r, (c, r)) for (c, r), value in distance.items() if value == nearest)
    half_filled = [grid for area, grid in tied[1:] if width * height > options.tile_size**2 * area / 2]
    return half_filled[-1] if half_filled else tied[0][1]


@pytest.mark.parametrize("size", GOLDEN)
def test_golden_grids(size: tuple[int, int]) -> None:
    grids = [plan_image(*size, TilingOptions(1, most, True, 448)) for most in (6, 12, 18, 24)]
    assert [(grid.columns, grid.rows) for grid in grids] == GOLDEN[size]


@settings(max_examples=600, deadline=None)
@given(sides, sides, tilings())
@example(448, 448, TilingOptions(1, 12, True, 448))
@example(634, 634, TilingOptions(1, 12, True, 448))
@example(633, 633, TilingOptions(1, 12, True, 448))
def test_grid_equals_the_rule(width: int, height: int, options: TilingOptions) -> None:
    grid = plan_image(width, height, options)
    assert (grid.columns, grid.rows) == closest_grid(width, height, options)
    assert options.min_tiles <= grid.columns * grid.rows <= options.max_tiles


@settings(max_examples=300, deadline=None)
@given(sides, sides, tilings())
def test_all_smaller_grids_are_those_of_smaller_options(
    width: int, height: int, options: TilingOptions
) -> None:
    grids = plan_up_to(width, height, options)
    assert len(grids) == options.max_tiles
    for most, grid in enumerate(grids, start=1):
        smaller = replace(options, min_tiles=min(options.min_tiles, most), max_tiles=most)
        assert (grid.columns, grid.rows) == closest_grid(width, height, smaller)
        assert grid.thumbnail == (options.thumbnail and grid.columns * grid.rows > 1)


def test_a_square_is_cut_only_above_half_of_four_tiles() -> None:
    """Exactly half of the larger grid's pixels is not enough: 2 x 2 tiles of 448 hold 802,816."""
    options = TilingOptions(1, 12, True, 448)
    assert plan_image(633, 633, options).columns == 1
    assert plan_image(634, 634, options).columns == 2


def test_candidates() -> None:
    assert len(candidate_grids(1, 12)) == 35
    assert candidate_grids(5, 5) == ((1, 5), (5, 1))
    areas = [columns * rows for columns, rows in candidate_grids(3, 24)]
    assert areas == sorted(areas)


def test_thumbnail_follows_only_a_grid() -> None:
    options = TilingOptions(1, 12, True, 448)
    assert plan_image(448, 448, options) == TileGrid(1, 1, thumbnail=False)
    assert plan_image(640, 480, options) == TileGrid(4, 3, thumbnail=True)
    assert plan_image(640, 480, options).tiles == 13
    assert plan_image(640, 480, TilingOptions(1, 12, False, 448)).tiles == 12


def test_a_film_has_one_grid_a_frame() -> None:
    tiling = TilingOptions(1, 2, True, 448)
    grids = plan_media(1920, 1080, VideoOptions(tiling, 5, None, None))
    assert grids == (TileGrid(2, 1, thumbnail=True),) * 5
    assert count_tiles(grids) == 15
    assert plan_media(1920, 1080, ImageOptions(tiling)) == grids[:1]
