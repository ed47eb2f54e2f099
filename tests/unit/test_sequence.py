"""A sequence derives what can be computed from what has arrived and what was computed."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_service.engine.request import TileKey, VisualNeed
from llm_service.engine.sequence import Sequence
from tests.unit.scheduler_samples import CONTEXT, TILE, embeddings, request, send_tiles, tile_keys


def test_text_is_ready_at_once() -> None:
    sequence = Sequence(request((1, 2, 3)))
    assert sequence.ready_length == sequence.remaining == 3
    assert sequence.remaining
    assert not sequence.is_stalled


def test_ready_length_stops_at_the_first_missing_tile() -> None:
    first, second = tile_keys("a", 2)
    sequence = Sequence(request((1, 2, 3), [first, second]))
    assert sequence.ready_length == 1
    sequence.receive(second, embeddings(second))
    assert sequence.ready_length == 1
    sequence.receive(first, embeddings(first))
    assert sequence.ready_length == sequence.length == 3 + 2 * TILE


def test_stalls_when_all_that_arrived_is_computed() -> None:
    (tile,) = tile_keys("a", 1)
    sequence = Sequence(request((1, 2), [tile]))
    sequence.advance(1)
    assert sequence.is_stalled
    sequence.receive(tile, embeddings(tile))
    assert not sequence.is_stalled
    assert sequence.remaining == TILE + 1


def test_one_tile_fills_every_slot_that_shows_it() -> None:
    (tile,) = tile_keys("a", 1)
    sequence = Sequence(request((1, 2), [tile, tile]))
    sequence.receive(tile, embeddings(tile))
    assert sequence.missing is None
    assert [span.offset for span in sequence.spans(sequence.length)] == [1, 1 + TILE]


def test_decodes_once_the_prompt_is_computed() -> None:
    sequence = Sequence(request((1, 2, 3)))
    sequence.advance(3)
    assert not sequence.remaining
    sequence.advance(0, [7])
    assert sequence.is_decoding
    assert sequence.token_ids(1).tolist() == [7]


def test_decodes_behind_the_tokens_delivered_before_a_resume() -> None:
    sequence = Sequence(request((1, 2, 3), delivered=(7, 8)))
    assert sequence.remaining == 5
    assert sequence.token_ids(5).tolist() == [1, 2, 3, 7, 8]
    sequence.advance(4)
    assert sequence.is_decoding
    sequence.advance(1, [9])
    assert sequence.generated == [7, 8, 9]


def test_restart_computes_prompt_and_answer_again() -> None:
    sequence = Sequence(request((1, 2, 3)))
    sequence.advance(3, [7])
    sequence.advance(1, [8])
    sequence.blocks = [4]
    sequence.restart()
    assert not sequence.is_decoding
    assert sequence.blocks == []
    assert sequence.remaining == 5
    assert sequence.token_ids(5).tolist() == [1, 2, 3, 7, 8]


def test_ids_of_any_slice() -> None:
    sequence = Sequence(request((1, 2, 3)))
    sequence.generated += [7, 8, 9]
    whole = [1, 2, 3, 7, 8, 9]
    for start in range(7):
        for end in range(start, 7):
            assert sequence.ids(start, end).tolist() == whole[start:end]


def test_needs_name_each_item_once_in_order_of_use() -> None:
    b, a = tile_keys("b", 2), tile_keys("a", 3)
    assert Sequence(request((1, 2), [*b, *a, *b])).needs() == (VisualNeed("b", 0, 2), VisualNeed("a", 0, 3))


def test_needs_begin_at_the_first_tile_that_is_not_here() -> None:
    sequence = Sequence(request((1, 2), [*tile_keys("a", 3), *tile_keys("b", 2)]))
    for tile in (TileKey("a", 0), TileKey("a", 2)):
        sequence.receive(tile, embeddings(tile))
    assert sequence.needs() == (VisualNeed("a", 1, 3), VisualNeed("b", 0, 2))
    send_tiles(sequence)
    assert sequence.needs() == ()


def test_a_fork_shares_what_was_and_goes_its_own_way() -> None:
    sequence = Sequence(request((1, 2), tile_keys("a", 1), n=2))
    send_tiles(sequence)
    sequence.blocks = [4, 5]
    sequence.advance(3)
    sibling = sequence.fork(1)
    sequence.advance(5, [7])
    sibling.advance(5, [8])
    sibling.blocks.append(6)
    assert (sequence.generated, sibling.generated) == ([7], [8])
    assert (sequence.blocks, sibling.blocks) == ([4, 5], [4, 5, 6])
    assert (sequence.choice, sibling.choice) == (0, 1)
    assert sibling.missing is None
    assert sequence.rank < sibling.rank


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=4), st.lists(st.integers(1, 7), min_size=40, max_size=40))
def test_any_cut_into_chunks_gives_the_same_rows(items: list[str], cuts: list[int]) -> None:
    wanted = request((1, 2, 3), [TileKey(item, number) for number, item in enumerate(items)])
    sequence = Sequence(wanted)
    for slot in wanted.slots:
        sequence.receive(slot.tile, embeddings(slot.tile))
    sequence.generated += [5, 6]

    ids: list[int] = []
    rows = np.zeros((sequence.length, 1))
    for cut in cuts:
        count = min(cut, sequence.remaining)
        if not count:
            break
        ids += sequence.token_ids(count).tolist()
        for span in sequence.spans(count):
            start = sequence.computed + span.offset
            rows[start : start + len(span.embeddings)] += span.embeddings
        sequence.advance(count)

    assert not sequence.remaining
    assert ids == [1, *[CONTEXT] * (TILE * len(items)), 2, 3, 5, 6]
    for slot in wanted.slots:
        np.testing.assert_array_equal(rows[slot.offset : slot.end], embeddings(slot.tile))
    assert np.count_nonzero(rows.any(axis=1)) == TILE * len(items)
