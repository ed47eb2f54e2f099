"""One budget of tiles over many items: what must hold of every split."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from vision_service.budget import split_budget
from vision_service.options import (
    ImageOptions,
    MediaOptions,
    VideoOptions,
    count_tiles,
    plan_media,
    smaller_ways,
)
from vision_service.tiling import TilingOptions

ladders = st.lists(st.integers(1, 60), min_size=1, max_size=12, unique=True).map(sorted)


@settings(max_examples=400, deadline=None)
@given(st.lists(ladders, min_size=1, max_size=8), st.integers(0, 200))
def test_a_split_keeps_to_the_budget_and_leaves_nothing_that_anybody_could_use(
    items: list[list[int]], spare: int
) -> None:
    budget = sum(ladder[0] for ladder in items) + spare
    chosen = split_budget(budget, items)
    left = budget - sum(ladder[place] for ladder, place in zip(items, chosen, strict=True))
    assert left >= 0
    for ladder, place in zip(items, chosen, strict=True):
        assert place + 1 == len(ladder) or ladder[place + 1] - ladder[place] > left


@settings(max_examples=400, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 200))
def test_where_any_number_will_do_it_is_filled_like_water(wanted: list[int], spare: int) -> None:
    """Everybody has what they want or the common level, and the first of the others one more."""
    budget = len(wanted) + spare
    chosen = split_budget(budget, [list(range(1, most + 1)) for most in wanted])
    tiles = [place + 1 for place in chosen]
    assert sum(tiles) == min(budget, sum(wanted))
    below = [got for got, most in zip(tiles, wanted, strict=True) if got < most]
    level = min(below, default=max(wanted))
    assert all(
        got in (min(most, level), min(most, level + 1)) for got, most in zip(tiles, wanted, strict=True)
    )
    thirsty = [got for got, most in zip(tiles, wanted, strict=True) if most > level]
    assert thirsty == sorted(thirsty, reverse=True)


def test_steps_of_several_tiles() -> None:
    thumbnails = [1, 3, 4, 5]
    assert split_budget(6, [thumbnails, thumbnails]) == [1, 1]
    assert split_budget(5, [thumbnails, thumbnails]) == [2, 0]  # what one cannot use helps the other
    assert split_budget(12, [list(range(1, 13)), [1], thumbnails, [1, 2]]) == [4, 0, 2, 1]


@st.composite
def media_options(draw: st.DrawFn) -> MediaOptions:
    least = draw(st.integers(1, 12))
    tiling = TilingOptions(least, draw(st.integers(least, 40)), draw(st.booleans()), 448)
    if draw(st.booleans()):
        return ImageOptions(tiling)
    return VideoOptions(
        TilingOptions(1, tiling.max_tiles, tiling.thumbnail, 448), draw(st.integers(1, 20)), None, 2.0
    )


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 4000), st.integers(1, 4000), media_options())
def test_an_item_can_be_made_of_one_tile_up_to_all_it_asks_for(
    width: int, height: int, options: MediaOptions
) -> None:
    ways = smaller_ways(width, height, options)
    tiles = [way.tiles for way in ways]
    assert tiles == sorted(set(tiles))
    assert tiles[0] == 1
    assert tiles == [count_tiles(plan_media(width, height, way.apply(options))) for way in ways]
    assert ways[-1].apply(options) == options
