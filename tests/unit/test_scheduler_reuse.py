"""Blocks found again: what a second turn, a neighbour or a return from preemption need not compute."""

from __future__ import annotations

import itertools

import pytest

from llm_service.engine.request import Request, TileKey, VisualNeed
from tests.unit.scheduler_samples import (
    BLOCK,
    ROPE_LIMIT,
    TILE,
    Bench,
    answer,
    embeddings,
    request,
    text,
    tile_keys,
)


def test_a_second_turn_begins_with_the_answer_of_the_first() -> None:
    bench = Bench()
    first = request(text(6), tile_keys("a", 2), max_tokens=7)
    tokens = bench.run_alone(first)
    again = request([*text(6), *tokens, 2, 2], tile_keys("a", 2))
    turn = bench.submit(again, with_tiles=False)
    known = (first.prompt_tokens + len(tokens) - 1) // BLOCK * BLOCK  # the last token was never computed
    assert turn.cached_tokens == turn.computed == known
    assert turn.needs() == ()
    assert (bench.scheduler.prefix_queries, bench.scheduler.prefix_hits) == (
        first.prompt_tokens + again.prompt_tokens,
        known,
    )
    bench.run()
    assert bench.answers[again, 0] == answer(again)


def test_the_last_token_is_always_computed() -> None:
    bench = Bench()
    wanted = request(text(3 * BLOCK))
    first = bench.run_alone(wanted)
    again = request(text(3 * BLOCK))
    assert bench.submit(again).cached_tokens == 2 * BLOCK
    bench.run()
    assert bench.answers[again, 0] == first


def test_only_tiles_that_no_block_kept_are_needed() -> None:
    bench = Bench()
    bench.run_alone(request(text(1), tile_keys("a", 2), max_tokens=1))  # tokens 1 to 12: blocks end at 12
    longer = bench.submit(request(text(1), [*tile_keys("a", 3), *tile_keys("b", 1)]), with_tiles=False)
    assert longer.needs() == (VisualNeed("a", 2, 3), VisualNeed("b", 0, 1))
    assert longer.ready_length == 1 + 2 * TILE


def test_computing_anew_after_a_hit_asks_nobody_for_tiles() -> None:
    """The embeddings come with the blocks: the rope limit is crossed without a tile being sent."""
    bench = Bench()
    tiles = tile_keys("a", 2)
    begin = ROPE_LIMIT - 2 * TILE - 2
    bench.run_alone(request(text(begin), tiles, max_tokens=1))
    crossing = request(text(begin), tiles, max_tokens=8)
    sequence = bench.submit(crossing, with_tiles=False)
    assert sequence.cached_tokens
    assert sequence.needs() == ()
    bench.run()
    assert bench.recomputes == 1
    assert bench.answers[crossing, 0] == answer(crossing)


@pytest.mark.parametrize("scope", ["", "mine"])
def test_scopes_do_not_meet(scope: str) -> None:
    bench = Bench()
    bench.run_alone(request(text(20), scope="yours"))
    assert bench.submit(request(text(20), scope=scope)).cached_tokens == 0


def test_the_cache_can_be_switched_off() -> None:
    bench = Bench(prefix_cache=False)
    bench.run_alone(request(text(20)))
    assert bench.scheduler.blocks.cached == 0
    assert bench.submit(request(text(20))).cached_tokens == 0


def test_two_that_compute_the_same_at_once_leave_one_copy() -> None:
    bench = Bench(step_token_budget=64)
    wanted = [request(text(20)), request(text(20))]
    for one in wanted:
        bench.submit(one)
    bench.run()
    assert [bench.answers[one, 0] for one in wanted] == [answer(wanted[0])] * 2
    assert bench.scheduler.blocks.cached == (20 + 8 - 1) // BLOCK


def test_the_beginning_of_a_prompt_is_forgotten_last() -> None:
    bench = Bench(kv_blocks=12)
    wanted = request(text(30), max_tokens=1)
    bench.run_alone(wanted)
    bench.run_alone(request(text(28, 2), max_tokens=1))  # takes some of the blocks that are cached
    cached = bench.submit(request(text(30), max_tokens=1)).cached_tokens
    assert 0 < cached < 28


def test_a_block_that_was_found_is_no_room_as_well() -> None:
    bench = Bench(kv_blocks=8, max_running=2)
    bench.run_alone(request(text(16), max_tokens=1))  # leaves four blocks cached and four free
    first = bench.submit(request(text(16, 2), max_tokens=4))  # is promised five
    second = bench.submit(request(text(16), max_tokens=4))  # would hold three of the others and lack two
    assert bench.scheduler.running == (first,)
    assert bench.scheduler.waiting == (second,)
    bench.run()
    assert bench.scheduler.preemptions == 0


def test_pictures_that_look_alike_in_ids_are_never_mixed_up() -> None:
    """Same ids, same sizes, other pixels: in any order, together, one after the other, and after eviction."""
    keys = [TileKey(name, number) for name in ("a", "b") for number in (0, 1)]
    prompts = [request(text(5), tiles) for tiles in itertools.product(keys, repeat=2)]
    bench = Bench(kv_blocks=16)
    for one in [*prompts, *reversed(prompts)]:
        again = request(text(5), [slot.tile for slot in one.slots])
        assert bench.run_alone(again) == answer(one)
    assert bench.scheduler.prefix_hits > 0


def test_a_tile_that_came_is_no_reason_to_forget_what_was_found() -> None:
    bench = Bench()
    bench.run_alone(request(text(5), tile_keys("a", 2)))
    wanted: Request = request(text(5), [*tile_keys("a", 2), *tile_keys("b", 1)])
    sequence = bench.submit(wanted, with_tiles=False)
    assert sequence.is_stalled is False
    sequence.receive(TileKey("b", 0), embeddings(TileKey("b", 0)))
    bench.run()
    assert bench.answers[wanted, 0] == answer(wanted)


def test_the_same_prompt_at_once_is_computed_once() -> None:
    bench = Bench(kv_blocks=60, step_token_budget=16)
    twins = [request([1, *[2] * 30, n], tile_keys("a", 2), max_tokens=3) for n in (3, 4)]
    for one in twins:
        bench.submit(one)
    computed = 0
    while bench.scheduler.has_work:
        computed += sum(share.tokens for share in bench.step().shares)
    prompt = twins[0].prompt_tokens
    assert computed <= prompt + BLOCK + 2 * 3
    assert [bench.answers[one, 0] for one in twins] == [answer(one) for one in twins]


def test_who_computes_for_others_may_leave() -> None:
    bench = Bench(kv_blocks=60, step_token_budget=8)
    first, second = (request([1, *[2] * 30, n], max_tokens=3) for n in (3, 4))
    leading = bench.submit(first)
    bench.submit(second)
    bench.step()
    bench.scheduler.remove(leading)
    bench.run()
    assert bench.answers[second, 0] == answer(second)
    assert bench.scheduler.blocks.used == 0
