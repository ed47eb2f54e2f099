"""Cache blocks under the engine: reuse, the attempt to mix up pictures, too little memory, priorities."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_service.engine.events import Admitted, Failed, Finished
from llm_service.engine.request import Request, TileKey, VisualNeed
from tests.unit.engine_samples import (
    BLOCK,
    ROPE_LIMIT,
    TILE,
    Bench,
    embeddings,
    expected_tokens,
    metric,
    request,
    tile_keys,
)


def admitted(bench: Bench, asked: Request) -> Admitted:
    first = bench.of(asked)[0]
    assert isinstance(first, Admitted)
    return first


def test_a_second_turn_computes_only_what_is_new() -> None:
    bench = Bench(step_token_budget=100)
    first = request((1, 2, 3), tile_keys("a", 3), max_tokens=5, stop_ids=frozenset())
    answer = bench.run_alone(first)
    before = len(bench.model.steps)
    second = request((1, 2, 3, *answer, 7, 8), tile_keys("a", 3), max_tokens=5, stop_ids=frozenset())
    bench.engine.submit(second)
    bench.run()
    cached = admitted(bench, second).cached_tokens
    assert admitted(bench, second).needed == ()  # no tile is shipped twice
    assert cached == (first.prompt_tokens + 4) // BLOCK * BLOCK  # the last token was never computed
    assert bench.model.steps[before] == [second.prompt_tokens - cached]
    assert bench.tokens(second) == expected_tokens(second)


def test_the_last_token_of_a_known_prompt_is_computed_again() -> None:
    bench = Bench()
    text = [9] * (2 * BLOCK)
    first, again = request(text), request(text)
    assert bench.run_alone(first) == bench.run_alone(again) == expected_tokens(again)
    assert admitted(bench, again).cached_tokens == BLOCK


def test_only_the_tiles_that_are_not_known_are_asked_for() -> None:
    bench = Bench()
    bench.run_alone(request((1, 2), tile_keys("a", 2)))
    longer = request((1, 2), [*tile_keys("a", 2), *tile_keys("b", 2)])
    bench.engine.submit(longer)
    assert admitted(bench, longer).needed == (VisualNeed("b", 0, 2),)
    for tile in tile_keys("b", 2):
        bench.engine.receive_tile(longer, tile, embeddings(tile))
    bench.run()
    assert bench.tokens(longer) == expected_tokens(longer)


def test_a_salt_keeps_requests_apart() -> None:
    bench = Bench()
    text = [9] * 12
    bench.run_alone(request(text, scope="one"))
    other, same = request(text, scope="two"), request(text, scope="one")
    bench.run_alone(other)
    bench.run_alone(same)
    assert (admitted(bench, other).cached_tokens, admitted(bench, same).cached_tokens > 0) == (0, True)


def test_blocks_rotated_for_short_contexts_are_not_used_in_long_ones() -> None:
    bench = Bench()
    bench.run_alone(request([9] * ROPE_LIMIT, max_tokens=1))
    longer = request([9] * (ROPE_LIMIT + 5))
    assert bench.run_alone(longer) == expected_tokens(longer)
    assert admitted(bench, longer).cached_tokens == 0


def test_outgrowing_the_short_rope_after_a_hit_needs_no_tile_again() -> None:
    bench = Bench()
    tiles = tile_keys("a", 2)
    text = [7] * (ROPE_LIMIT - 2 * TILE - 2)
    bench.run_alone(request(text, tiles, max_tokens=1))
    crossing = request(text, tiles, max_tokens=6, stop_ids=frozenset())
    bench.engine.submit(crossing)
    assert admitted(bench, crossing).needed == ()
    bench.run()
    assert bench.tokens(crossing) == expected_tokens(crossing)


pictures = st.lists(st.sampled_from(["a", "b", "ab", "a/0", ""]), min_size=1, max_size=3)


@settings(max_examples=150, deadline=None)
@given(
    prompts=st.lists(st.tuples(pictures, st.integers(0, 6)), min_size=2, max_size=8),
    blocks=st.sampled_from([14, 20, 200]),
    together=st.booleans(),
)
def test_no_answer_ever_sees_another_picture(
    prompts: list[tuple[list[str], int]], blocks: int, together: bool
) -> None:
    """Same ids, same sizes, other pixels; names that are prefixes of one another; evicted and back again.

    The model's answer depends on every embedding it is given, so that one wrong block changes the answer.
    """
    bench = Bench(kv_blocks=blocks)
    asked = [
        request([1] * (1 + tail), [TileKey(name, number) for number, name in enumerate(names)], max_tokens=3)
        for names, tail in prompts
    ]
    for one in asked:
        bench.engine.submit(one)
        if not together:
            bench.send_all_tiles(one)
            bench.run()
    for one in asked:
        bench.send_all_tiles(one)
    bench.run()
    assert [bench.tokens(one) for one in asked] == [expected_tokens(one) for one in asked]
    assert bench.blocks_held == 0


def test_pictures_swapped_within_a_prompt_share_nothing_behind_the_swap() -> None:
    bench = Bench()
    first, swapped = [*tile_keys("a", 1), *tile_keys("b", 1)], [*tile_keys("b", 1), *tile_keys("a", 1)]
    bench.run_alone(request([1] * 9, first))
    asked = request([1] * 9, swapped)
    assert bench.run_alone(asked) == expected_tokens(asked)
    assert admitted(bench, asked).cached_tokens == 0


def test_too_little_memory_makes_answers_wait_and_changes_none() -> None:
    bench, preempted = Bench(kv_blocks=12, max_running=4), metric("preemptions_total")
    asked = [request([n] * 9, max_tokens=20, stop_ids=frozenset()) for n in range(1, 5)]
    for one in asked:
        bench.engine.submit(one)
    bench.run()
    assert [bench.tokens(one) for one in asked] == [expected_tokens(one) for one in asked]
    assert metric("preemptions_total") > preempted
    assert bench.blocks_held == 0


def test_a_preempted_answer_with_pictures_asks_nobody_again() -> None:
    bench, preempted = Bench(kv_blocks=14, max_running=4), metric("preemptions_total")
    asked = [
        request([n] * 3, tile_keys(f"p{n}", 2), max_tokens=25, stop_ids=frozenset()) for n in range(1, 4)
    ]
    for one in asked:
        bench.engine.submit(one)
        bench.send_all_tiles(one)
    bench.run()
    assert [bench.tokens(one) for one in asked] == [expected_tokens(one) for one in asked]
    assert all(sum(isinstance(event, Admitted) for event in bench.of(one)) == 1 for one in asked)
    assert metric("preemptions_total") > preempted


def test_what_the_cache_brought_since_is_no_reason_to_time_out() -> None:
    bench = Bench(max_running=1, tile_timeout_s=120.0)
    text = [7] * 9
    stalled = request(text, tile_keys("a", 1), max_tokens=12, priority=-5, stop_ids=frozenset())
    same = request(text, tile_keys("a", 1), max_tokens=6, stop_ids=frozenset())
    bench.engine.submit(stalled)
    bench.run()
    bench.engine.submit(same)
    bench.send_all_tiles(same)
    while not bench.tokens(stalled) and bench.engine.has_work:
        bench.engine.step()
    bench.now = 130.0  # its tile never came, and it needs none any more
    bench.run()
    assert bench.tokens(stalled) == expected_tokens(stalled)


def test_who_stands_still_keeps_no_place_from_a_higher_rank() -> None:
    bench = Bench(kv_blocks=12, max_running=2)
    stalled = request([7] * 9, tile_keys("a", 1), max_tokens=12, stop_ids=frozenset())
    crossing = request([1] * 9, max_tokens=39, priority=5, stop_ids=frozenset())
    bench.engine.submit(stalled)
    bench.engine.submit(crossing)  # needs all blocks, some of them when it starts anew with the long rope
    bench.run()
    assert bench.tokens(crossing) == expected_tokens(crossing)
    bench.send_all_tiles(stalled)
    bench.run()
    assert bench.tokens(stalled) == expected_tokens(stalled)
    assert bench.blocks_held == 0


def test_the_lowest_priority_gives_way() -> None:
    bench = Bench(kv_blocks=12, max_running=4)
    urgent = request([1] * 9, max_tokens=25, stop_ids=frozenset(), priority=5)
    others = [request([n] * 9, max_tokens=25, stop_ids=frozenset()) for n in (2, 3)]
    for one in (*others, urgent):
        bench.engine.submit(one)
    while bench.end(urgent) is None:
        before = len(bench.tokens(urgent))
        bench.engine.step()
        assert before == 0 or len(bench.tokens(urgent)) == before + 1  # once begun, a token every step
    bench.run()
    for one in (*others, urgent):
        assert bench.tokens(one) == expected_tokens(one)


def test_the_queue_goes_by_priority_and_then_by_age() -> None:
    bench = Bench(max_running=1)
    running = request(max_tokens=2, stop_ids=frozenset())
    queue = [request(priority=priority, max_tokens=1) for priority in (0, 3, 0, -2, 3)]
    for one in (running, *queue):
        bench.engine.submit(one)
    bench.run()
    order = [request for request, event in bench.events if isinstance(event, Finished)]
    assert order == [running, queue[1], queue[4], queue[0], queue[2], queue[3]]


requests = st.builds(
    lambda text, items, most, n, priority: request(
        text,
        [TileKey(item, number) for number, item in enumerate(items)],
        max_tokens=most,
        n=n,
        priority=priority,
        stop_ids=frozenset(),
    ),
    st.lists(st.integers(1, 3), min_size=1, max_size=16),
    st.lists(st.sampled_from("ab"), max_size=3),
    st.integers(1, 14),
    st.integers(1, 3),
    st.integers(-1, 1),
)


@settings(max_examples=150, deadline=None)
@given(
    batch=st.lists(requests, min_size=1, max_size=7),
    blocks=st.sampled_from([14, 18, 30, 250]),
    budget=st.sampled_from([5, 9, 100]),
    drafts=st.sampled_from([0, 3]),
    data=st.data(),
)
def test_everything_at_once_changes_no_answer(
    batch: list[Request], blocks: int, budget: int, drafts: int, data: st.DataObject
) -> None:
    """Several answers, hits, preemption, guesses, priorities, late tiles, cancelled neighbours."""
    bench = Bench(kv_blocks=blocks, step_token_budget=budget, draft_tokens=drafts)
    to_submit = list(batch)
    cancelled: set[Request] = set()
    for turn in itertools.count():
        act = data.draw(st.sampled_from(["submit", "tiles", "step", "step", "step", "cancel"]))
        chosen = data.draw(st.sampled_from(batch))
        bench.now = turn * 0.5
        if act == "submit" and to_submit:
            bench.engine.submit(to_submit.pop(0))
        elif act == "tiles" and chosen not in to_submit:
            bench.send_all_tiles(chosen)
        elif act == "cancel" and chosen not in to_submit and data.draw(st.integers(0, 4)) == 0:
            bench.engine.cancel(chosen)
            cancelled.add(chosen)
        else:
            bench.engine.step()
        if not to_submit and turn > 25:
            break
    for one in batch:
        bench.send_all_tiles(one)
    bench.run()
    for one in batch:
        if one in cancelled:
            continue
        end = bench.end(one)
        if isinstance(end, Failed):
            assert "KV" in end.error.message  # never fits
            continue
        assert isinstance(end, Finished)
        for choice in range(one.sampling.n):
            assert bench.tokens(one, choice) == expected_tokens(one)
    assert bench.blocks_held == 0


@pytest.mark.parametrize("budget", [5, 100])
def test_a_shared_prefix_is_stored_once(budget: int) -> None:
    bench = Bench(step_token_budget=budget, max_running=4)
    text = [5] * 28
    bench.run_alone(request(text, max_tokens=1))
    asked = [request([*text, n], max_tokens=4, stop_ids=frozenset()) for n in range(1, 5)]
    for one in asked:
        bench.engine.submit(one)
    bench.engine.step()
    bench.engine.step()
    assert bench.blocks_held <= 28 // BLOCK + 4 * 2
    bench.run()
    assert [bench.tokens(one) for one in asked] == [expected_tokens(one) for one in asked]
