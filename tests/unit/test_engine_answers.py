"""Several answers to one prompt, answers that go on where another server stopped, guesses, logprobs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_service.engine.events import Delta, Failed, Finished, FinishReason
from llm_service.engine.request import Request
from tests.unit.engine_samples import BLOCK, ROPE_LIMIT, STOP, Bench, expected_tokens, request, tile_keys

SEEDED: dict[str, Any] = {"temperature": 1.0, "seed": 7, "max_tokens": 9}
GREEDY: dict[str, Any] = {"max_tokens": 9, "stop_ids": frozenset()}


def answers(asked: Request, **changes: Any) -> list[list[int]]:
    bench = Bench(**changes)
    bench.run_alone(asked)
    assert isinstance(bench.end(asked), Finished)
    assert bench.blocks_held == 0
    return [bench.tokens(asked, choice) for choice in range(asked.sampling.n)]


@pytest.mark.parametrize("prompt", range(1, 2 * BLOCK + 2))
def test_several_answers_share_a_prompt_and_no_token(prompt: int) -> None:
    """Wherever the prompt ends within a block, nobody writes into what another one reads."""
    text = [5] * prompt
    several = answers(request(text, n=4, **SEEDED))
    assert len(set(map(tuple, several))) == 4
    assert several[0] == answers(request(text, **SEEDED))[0]


def test_greedy_answers_are_all_the_same() -> None:
    asked = request((1, 2, 3), tile_keys("a", 1), n=3, **GREEDY)
    assert answers(asked) == [expected_tokens(asked)] * 3


def test_several_answers_compute_their_prompt_once() -> None:
    bench = Bench(step_token_budget=100)
    asked = request([3] * 30, n=4, **SEEDED | {"stop_ids": frozenset()})
    bench.run_alone(asked)
    assert [len(step) for step in bench.model.steps] == [1, *[4] * 8]
    assert bench.model.steps[0] == [30]


def test_each_answer_ends_by_itself() -> None:
    bench = Bench()
    asked = request((4, 4), n=4, **SEEDED | {"max_tokens": 60})
    bench.run_alone(asked)
    end = bench.end(asked)
    assert isinstance(end, Finished)
    tokens = [bench.tokens(asked, choice) for choice in range(4)]
    assert [choice.completion_tokens for choice in end.choices] == [len(one) for one in tokens]
    assert [choice.reason is FinishReason.STOP for choice in end.choices] == [
        one[-1] == STOP for one in tokens
    ]
    assert end.usage.completion_tokens == sum(map(len, tokens))
    assert len({len(one) for one in tokens}) > 1  # or this test shows nothing


def test_more_answers_than_places_are_refused() -> None:
    bench = Bench(max_running=3)
    asked = request(n=4)
    bench.engine.submit(asked)
    assert isinstance(bench.end(asked), Failed)


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize("prompt", [5, ROPE_LIMIT - 4])
def test_a_resumed_answer_goes_on_as_if_it_had_never_stopped(prompt: int, sampling: dict[str, Any]) -> None:
    text = [6] * prompt
    (whole,) = answers(request(text, **sampling))
    for cut in range(len(whole) + 1):
        resumed = Bench()
        asked = request(text, delivered=whole[:cut], **sampling)
        assert resumed.run_alone(asked) == whole[cut:]
        end = resumed.end(asked)
        assert isinstance(end, Finished)
        assert end.usage.completion_tokens == len(whole)
        assert resumed.blocks_held == 0


def test_an_answer_that_was_delivered_whole_computes_nothing() -> None:
    bench = Bench()
    stopped = request(delivered=(8, 9, STOP))
    full = request(delivered=(8, 9), max_tokens=2)
    for asked, reason in ((stopped, FinishReason.STOP), (full, FinishReason.LENGTH)):
        assert bench.run_alone(asked) == []
        end = bench.end(asked)
        assert isinstance(end, Finished)
        assert end.choices[0].reason is reason
    assert bench.model.steps == []


def test_right_guesses_save_steps() -> None:
    """The prompt holds what the model is going to say: every guess is right, and the answer comes in bulk."""
    plain = request((1, 2), max_tokens=12, stop_ids=frozenset())
    (answer,) = answers(plain)
    text = [1, 2, *answer, 1, 2]
    asked = request(text, max_tokens=12, stop_ids=frozenset())
    (expected,) = answers(asked)
    guessing = Bench(draft_tokens=4, step_token_budget=64)
    assert guessing.run_alone(asked) == expected


texts = st.lists(st.integers(1, 3), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(prompts=st.lists(texts, min_size=1, max_size=5), seeded=st.booleans(), most=st.integers(1, 6))
def test_guessing_changes_no_answer(prompts: list[list[int]], seeded: bool, most: int) -> None:
    """Few different ids, so that there is much to guess and most of it is wrong."""
    sampling: dict[str, Any] = {"temperature": 2.0, "top_k": 2, "seed": 3} if seeded else {}
    biased = {"logit_bias": tuple((token, 4.0) for token in (1, 2, 3)), "max_tokens": 14}
    asked = [request(text, **sampling, **biased) for text in prompts]
    plain, guessing = Bench(), Bench(draft_tokens=most)
    for bench in (plain, guessing):
        for one in asked:
            bench.engine.submit(one)
        bench.run()
        assert bench.blocks_held == 0
    assert [guessing.tokens(one) for one in asked] == [plain.tokens(one) for one in asked]


def test_guesses_come_in_fewer_steps_and_one_delta() -> None:
    """A bias that leaves one token makes every answer a run of it, which is easily guessed."""
    bench = Bench(draft_tokens=4, step_token_budget=64)
    asked = request([2, 2, 2, 2], max_tokens=20, logit_bias=((2, 100.0),), stop_ids=frozenset())
    assert bench.run_alone(asked) == [2] * 20
    deltas = [event for event in bench.of(asked) if isinstance(event, Delta)]
    assert max(len(delta.token_ids) for delta in deltas) == 5
    assert len(bench.model.steps) < 10


def test_logprobs_come_with_their_tokens() -> None:
    bench = Bench(draft_tokens=3)
    asked = request([2, 2, 2, 2], max_tokens=9, logit_bias=((2, 100.0),), stop_ids=frozenset(), logprobs=2)
    bench.run_alone(asked)
    deltas = [event for event in bench.of(asked) if isinstance(event, Delta)]
    for delta in deltas:
        assert tuple(one.chosen.token_id for one in delta.logprobs) == delta.token_ids
        assert all(len(one.top) == 2 and one.chosen.logprob <= one.top[0].logprob for one in delta.logprobs)
