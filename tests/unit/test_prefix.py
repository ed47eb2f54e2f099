"""A block's hash tells apart all that its keys and values were computed from."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_service.engine.prefix import HashChain
from llm_service.engine.request import Request, SamplingParams, TileKey, VisualSlot
from llm_service.engine.sequence import Sequence
from tests.unit.scheduler_samples import BLOCK, TILE, request, tile_keys

TEXT = [1, 2, 3, 4, 5, 6]


def hashes(wanted: Request, regime: Hashable = "short", block_size: int = BLOCK) -> list[bytes]:
    """Of all full blocks."""
    sequence = Sequence(wanted)
    return HashChain(wanted, regime, block_size).hashes(sequence, sequence.length // block_size)


def test_equal_prompts_have_equal_hashes() -> None:
    assert hashes(request(TEXT, tile_keys("a", 2))) == hashes(request(TEXT, tile_keys("a", 2)))


@pytest.mark.parametrize(
    "other",
    [
        request(TEXT, tile_keys("b", 2)),
        request(TEXT, [TileKey("a", 1), TileKey("a", 0)]),
        request(TEXT, [TileKey("a", 0), TileKey("a", 0)]),
        request(TEXT, tile_keys("a", 2), scope="mine"),
        request([9, *TEXT[1:]], tile_keys("a", 2)),
    ],
    ids=["picture", "order", "tile", "scope", "text"],
)
def test_what_differs_is_told_apart_in_every_later_block(other: Request) -> None:
    mine = hashes(request(TEXT, tile_keys("a", 2)))
    first = next(
        index for index, pair in enumerate(zip(mine, hashes(other), strict=True)) if len(set(pair)) > 1
    )
    assert first <= (1 + TILE) // BLOCK  # no later than the block in which the difference lies
    assert set(mine[first:]).isdisjoint(hashes(other)[first:])


def test_rope_regimes_and_block_sizes_share_nothing() -> None:
    wanted = request(TEXT)
    assert set(hashes(wanted, "short")).isdisjoint(hashes(wanted, "long"))
    assert set(hashes(wanted, block_size=2)).isdisjoint(hashes(wanted, block_size=4))


def test_the_place_of_a_picture_counts() -> None:
    """Ids that look alike everywhere: only the slot tells where the tile begins and where it is cut off."""

    def at(offset: int) -> Request:
        slot = VisualSlot(offset, TILE, TileKey("a", 0))
        return Request("r", np.full(12, 7, np.int64), SamplingParams(), (slot,))

    chains = [hashes(at(offset)) for offset in range(5)]
    assert len({tuple(chain) for chain in chains}) == 5


def test_text_with_the_id_of_a_picture_is_no_picture() -> None:
    shown = request(TEXT, tile_keys("a", 1))
    typed = Request("r", shown.prompt_ids, SamplingParams())
    assert set(hashes(shown)).isdisjoint(hashes(typed))


def test_names_of_any_length_cannot_run_into_one_another() -> None:
    """Two runs in one block, whose names and numbers would read the same without their lengths."""

    def shows(first: str, second: str) -> Request:
        slots = tuple(VisualSlot(place, 1, TileKey(name, 0)) for place, name in enumerate((first, second)))
        return Request("r", np.zeros(BLOCK, np.int64), SamplingParams(), slots)

    names = ["", "a", "b", "ab", "ba", "aab", "\0", "\0\0"]
    chains = {tuple(hashes(shows(first, second))) for first in names for second in names}
    assert len(chains) == len(names) ** 2


def test_a_block_names_the_tiles_it_touches() -> None:
    wanted = request([1, 2], tile_keys("a", 2))  # tokens 1 to 6 and 7 to 12
    chain = HashChain(wanted, "short", BLOCK)
    chain.hashes(Sequence(wanted), 3)
    first, second = tile_keys("a", 2)
    assert [chain.tiles(index) for index in range(3)] == [(first,), (first, second), (second,)]


def test_an_answer_that_becomes_a_prompt_is_found() -> None:
    sequence = Sequence(request([1, 2, 3], max_tokens=20))
    sequence.generated += [4, 5, 6, 7, 8]
    chain = HashChain(sequence.request, "short", BLOCK)
    assert chain.hashes(sequence, 2) == hashes(request([1, 2, 3, 4, 5, 6, 7, 8]))


def test_a_copy_goes_its_own_way() -> None:
    wanted = request([1, 2, 3], max_tokens=20)
    first, second = Sequence(wanted), Sequence(wanted, 1)
    chain = HashChain(wanted, "short", BLOCK)
    first.generated += [4, 5, 6, 7, 8]
    second.generated += [4, 9, 9, 9, 9]
    chain.hashes(first, 1)
    twin = chain.copy()
    assert twin.hashes(second, 2)[0] == chain.hashes(first, 2)[0]
    assert twin.hashes(second, 2) == hashes(request([1, 2, 3, 4, 9, 9, 9, 9]))
    assert chain.hashes(first, 2) == hashes(request([1, 2, 3, 4, 5, 6, 7, 8]))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4), st.lists(st.integers(1, 4), max_size=12))
def test_growing_step_by_step_gives_the_same_hashes(tiles: int, steps: list[int]) -> None:
    wanted = request(TEXT, tile_keys("a", tiles))
    whole = hashes(wanted)
    chain, sequence, count = HashChain(wanted, "short", BLOCK), Sequence(wanted), 0
    for step in steps:
        count = min(count + step, len(whole))
        assert chain.hashes(sequence, count) == whole[:count]
