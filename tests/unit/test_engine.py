"""The engine on a model that notices every mix-up: same answers alone, in company, beside trouble."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl.errors import DeadlineExceeded, FailedPrecondition, InternalError, Overloaded
from llm_service.engine.events import Admitted, ChoiceEnd, Delta, Failed, Finished, FinishReason, TileTimeout
from llm_service.engine.request import Request, TileKey, VisualNeed
from tests.unit.engine_samples import (
    ROPE_LIMIT,
    STOP,
    TILE,
    Bench,
    embeddings,
    expected_tokens,
    is_empty,
    metric,
    request,
    tile_keys,
)


def test_an_answer_is_admitted_told_and_finished() -> None:
    bench = Bench()
    asked = request((1, 2, 3), tile_keys("a", 2), max_tokens=5, stop_ids=frozenset())
    bench.run_alone(asked)
    first, *deltas, last = bench.of(asked)
    assert first == Admitted(0, (VisualNeed("a", 0, 2),))
    assert [delta.token_ids for delta in deltas] == [(token,) for token in expected_tokens(asked)]
    assert isinstance(last, Finished)
    (choice,) = last.choices
    assert choice == ChoiceEnd(FinishReason.LENGTH, None, 5)
    assert (last.usage.prompt_tokens, last.usage.visual_tokens, last.usage.completion_tokens) == (11, 8, 5)
    assert last.usage.cached_tokens == 0
    assert deltas[-1].text.endswith(".")  # the answer was flushed


def test_a_stop_id_ends_the_answer_and_counts() -> None:
    bench = Bench()
    free = request((1, 2), max_tokens=6, stop_ids=frozenset())
    third = bench.run_alone(free)[2]
    asked = request((1, 2), max_tokens=6, stop_ids=frozenset({third}))
    tokens = bench.run_alone(asked)
    end = bench.end(asked)
    assert tokens[-1] == third
    assert isinstance(end, Finished)
    assert end.choices == (ChoiceEnd(FinishReason.STOP, None, len(tokens)),)
    assert end.usage.completion_tokens == len(tokens)


def test_a_stop_text_ends_the_answer_and_is_named() -> None:
    bench = Bench()
    second = bench.run_alone(request((1, 2), stop_ids=frozenset()))[1]
    asked = request((1, 2), stop_ids=frozenset(), stop_texts=(f"{second} ",))
    bench.run_alone(asked)
    end = bench.end(asked)
    assert isinstance(end, Finished)
    assert end.choices[0].reason is FinishReason.STOP
    assert end.choices[0].stop_match == f"{second} "


requests = st.builds(
    lambda text, items, max_tokens: request(
        text, [TileKey(item, number) for number, item in enumerate(items)], max_tokens=max_tokens
    ),
    st.lists(st.integers(1, 40), min_size=1, max_size=30),
    st.lists(st.sampled_from("abc"), max_size=4),
    st.integers(1, 12),
)


@settings(max_examples=40, deadline=None)
@given(batch=st.lists(requests, min_size=1, max_size=7), budget=st.sampled_from([5, 9, 100]), data=st.data())
def test_company_changes_no_answer(batch: list[Request], budget: int, data: st.DataObject) -> None:
    """Submissions, tiles, steps, cancellations in any order: who is not cancelled gets its own answer."""
    bench = Bench(step_token_budget=budget)
    to_submit = list(batch)
    to_send = {asked: list(dict.fromkeys(slot.tile for slot in asked.slots)) for asked in batch}
    cancelled: set[Request] = set()
    while to_submit or any(to_send.values()):
        act = data.draw(st.sampled_from(["submit", "tile", "step", "step", "cancel"]))
        chosen = data.draw(st.sampled_from(batch))
        if act == "submit" and to_submit:
            bench.engine.submit(to_submit.pop(0))
        elif act == "tile" and to_send[chosen] and chosen not in to_submit:
            tile = to_send[chosen].pop(0)
            bench.engine.receive_tile(chosen, tile, embeddings(tile))
        elif act == "cancel" and data.draw(st.integers(0, 5)) == 0 and chosen not in to_submit:
            bench.engine.cancel(chosen)
            told = len(bench.of(chosen))
            cancelled.add(chosen)
            to_send[chosen].clear()
            bench.engine.step()
            assert len(bench.of(chosen)) == told  # not another word
        else:
            bench.engine.step()
    bench.run()
    for asked in batch:
        if asked not in cancelled:
            assert bench.tokens(asked) == expected_tokens(asked)
            assert isinstance(bench.end(asked), Finished)
    assert_idle(bench)


def assert_idle(bench: Bench) -> None:
    assert is_empty()
    assert bench.blocks_held == 0
    cancelled = metric("requests_total", outcome="cancelled")
    for asked, _ in bench.events:
        bench.engine.cancel(asked)
    assert metric("requests_total", outcome="cancelled") == cancelled  # all of them had ended


@pytest.mark.parametrize("prompt", [ROPE_LIMIT - 2, ROPE_LIMIT - 1, ROPE_LIMIT, ROPE_LIMIT + 1])
def test_outgrowing_the_short_rope_recomputes_everything(prompt: int) -> None:
    bench = Bench()
    asked = request([7] * (prompt - TILE), tile_keys("a", 1), max_tokens=4, stop_ids=frozenset())
    assert bench.run_alone(asked) == expected_tokens(asked)
    crosses = prompt <= ROPE_LIMIT < prompt + 3
    computed = sum(map(sum, bench.model.steps))
    at_crossing = ROPE_LIMIT + 1
    again = at_crossing - 1 if crosses else 0
    assert computed == prompt + 3 + again


def test_recomputing_does_not_starve_the_neighbours() -> None:
    bench = Bench(step_token_budget=8)
    long = request([7] * ROPE_LIMIT, max_tokens=4, stop_ids=frozenset())
    short = request((1, 2), max_tokens=30, stop_ids=frozenset())
    bench.engine.submit(short)
    bench.engine.submit(long)
    while bench.end(short) is None:
        before = len(bench.tokens(short))
        bench.engine.step()
        assert len(bench.tokens(short)) == before + 1  # a token every step
    bench.run()
    assert bench.tokens(long) == expected_tokens(long)


def test_a_missing_tile_fails_its_own_request_only() -> None:
    bench = Bench(tile_timeout_s=5.0)
    waits, other = request((1, 2), tile_keys("a", 2)), request((1, 2), max_tokens=3, stop_ids=frozenset())
    bench.engine.submit(waits)
    bench.engine.submit(other)
    bench.run()
    assert bench.engine.next_expiry == 5.0
    bench.now = 4.0
    (first, _) = tile_keys("a", 2)
    bench.engine.receive_tile(waits, first, embeddings(first))
    bench.run()
    assert bench.engine.next_expiry == 9.0  # patience starts anew with every tile
    bench.now = 9.0
    bench.engine.step()
    end = bench.end(waits)
    assert isinstance(end, Failed)
    assert isinstance(end.error, TileTimeout)
    assert "tile 1 did not come within 5 s" in end.error.message
    assert isinstance(bench.end(other), Finished)
    assert_idle(bench)


def test_waiting_for_tiles_is_timed() -> None:
    bench = Bench()
    (tile,) = tile_keys("a", 1)
    asked = request((1, 2), [tile], max_tokens=2, stop_ids=frozenset())
    bench.engine.submit(asked)
    bench.now = 1.0
    bench.run()
    bench.now = 4.0
    bench.engine.receive_tile(asked, tile, embeddings(tile))
    bench.now = 4.5
    bench.engine.step()
    bench.now = 6.5
    bench.run()
    end = bench.end(asked)
    assert isinstance(end, Finished)
    times = end.timings
    assert (times.queue_s, times.prefill_s, times.decode_s, times.tile_wait_s) == (1.0, 3.5, 2.0, 3.0)


def test_a_deadline_that_passes_in_the_queue_drops_the_request() -> None:
    bench = Bench(max_running=1)
    first, late = request(max_tokens=3, stop_ids=frozenset()), request(deadline=2.0)
    bench.engine.submit(first)
    bench.engine.submit(late)
    bench.now = 2.0
    bench.run()
    end = bench.end(late)
    assert isinstance(end, Failed)
    assert isinstance(end.error, DeadlineExceeded)
    assert Admitted(0, ()) not in bench.of(late)
    assert isinstance(bench.end(first), Finished)


def test_a_full_queue_refuses() -> None:
    bench = Bench(max_running=1, queue_limit=1)
    asked = [request() for _ in range(3)]
    for one in asked:
        bench.engine.submit(one)
    end = bench.end(asked[2])
    assert isinstance(end, Failed)
    assert isinstance(end.error, Overloaded)
    bench.run()
    assert [bench.tokens(one) for one in asked[:2]] == [expected_tokens(one) for one in asked[:2]]


def test_what_never_fits_is_refused() -> None:
    bench = Bench(kv_blocks=5)
    asked = request(max_tokens=18)
    bench.engine.submit(asked)
    end = bench.end(asked)
    assert isinstance(end, Failed)
    assert isinstance(end.error, FailedPrecondition)
    assert_idle(bench)


def test_a_failing_step_fails_those_in_it_and_no_more() -> None:
    bench = Bench()
    bench.model.fail_on = 13
    bad = request((1, 13))
    bench.engine.submit(bad)
    bench.run()
    end = bench.end(bad)
    assert isinstance(end, Failed)
    assert isinstance(end.error, InternalError)
    assert "memory" not in end.error.message  # details stay in the log
    bench.model.fail_on = None
    good = request((1, 2))
    assert bench.run_alone(good) == expected_tokens(good)
    assert_idle(bench)


def test_cancelling_twice_or_after_the_end_is_harmless() -> None:
    bench = Bench()
    asked = request()
    bench.run_alone(asked)
    bench.engine.cancel(asked)
    bench.engine.cancel(asked)
    assert isinstance(bench.end(asked), Finished)
    late = tile_keys("a", 1)[0]
    bench.engine.receive_tile(asked, late, embeddings(late))
    assert_idle(bench)


def test_seeded_sampling_is_the_same_in_company() -> None:
    alone, crowded = Bench(), Bench(step_token_budget=7)
    settings_ = {"temperature": 1.0, "max_tokens": 10, "stop_ids": frozenset({STOP})}
    asked = [request((5, 6, 7), seed=seed, **settings_) for seed in range(6)]
    expected = [alone.run_alone(one) for one in asked]
    for one in asked:
        crowded.engine.submit(one)
    crowded.run()
    assert [crowded.tokens(one) for one in asked] == expected
    assert len(set(map(tuple, expected))) > 1


def test_every_token_is_in_a_delta() -> None:
    bench = Bench()
    asked = request((3, 4), max_tokens=20)
    bench.run_alone(asked)
    deltas = [event for event in bench.of(asked) if isinstance(event, Delta)]
    end = bench.end(asked)
    assert isinstance(end, Finished)
    assert sum(len(delta.token_ids) for delta in deltas) == end.usage.completion_tokens
