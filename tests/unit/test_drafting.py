"""Prompt lookup against a plain search through the whole history."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_service.engine.drafting import PromptLookup
from llm_service.engine.request import Request, SamplingParams, TileKey, VisualSlot

CONTEXT = 99
STOP = 98
PLENTY = 64


def request(prompt: Sequence[int], stop_ids: frozenset[int] = frozenset({STOP})) -> Request:
    """A request whose runs of CONTEXT are visual slots."""
    slots = []
    for place, token in enumerate(prompt):
        if token == CONTEXT:
            slots.append(VisualSlot(place, 1, TileKey("v", len(slots))))
    params = SamplingParams(stop_ids=stop_ids)
    return Request("r", np.array(prompt, np.int64), params, tuple(slots))


def lookup(prompt: Sequence[int], answer: Sequence[int] = ()) -> PromptLookup:
    drafts = PromptLookup(request(prompt))
    for token in answer:
        drafts.extend(token)
    return drafts


def searched(ids: Sequence[int], most: int) -> tuple[int, ...]:
    """What stood behind the latest earlier place of the longest tail, by looking everywhere."""
    for length in (4, 3, 2):
        tail = list(ids[-length:])
        if len(tail) < length or CONTEXT in tail:
            continue
        for start in range(len(ids) - length - 1, -1, -1):
            behind = start + length
            if list(ids[start:behind]) == tail and ids[behind] != CONTEXT:
                return copied(ids, behind, most)
    return ()


def copied(ids: Sequence[int], place: int, most: int) -> tuple[int, ...]:
    """The tokens from a place on, going on into the copy itself, up to one that is never drafted."""
    extended = list(ids)
    for step in range(most):
        if extended[place + step] in (CONTEXT, STOP):
            break
        extended.append(extended[place + step])
    return tuple(extended[len(ids) :])


few = st.integers(0, 2)  # so few that everything comes again
prompts = st.lists(few | st.sampled_from([CONTEXT, STOP]), min_size=1, max_size=30)


@settings(max_examples=500, deadline=None)
@given(prompt=prompts, answer=st.lists(few | st.just(STOP), max_size=20), most=st.integers(0, 4))
def test_drafts_are_those_of_a_search_through_everything(
    prompt: list[int], answer: list[int], most: int
) -> None:
    assert lookup(prompt, answer).propose(most) == searched([*prompt, *answer], most)


@settings(max_examples=100, deadline=None)
@given(prompt=prompts, answer=st.lists(few | st.just(CONTEXT), max_size=20))
def test_visual_tokens_are_never_drafted(prompt: list[int], answer: list[int]) -> None:
    assert CONTEXT not in lookup([CONTEXT, *prompt], answer).propose(PLENTY)


def test_the_longest_match_goes_before_the_latest() -> None:
    prompt = [1, 2, 3, 4, 50, 9, 3, 4, 60]
    assert lookup(prompt, [7, 3, 4]).propose(1) == (60,)
    assert lookup(prompt, [1, 2, 3, 4]).propose(1) == (50,)


def test_one_token_is_no_evidence() -> None:
    assert lookup([1, 2, 3], [8, 1]).propose(PLENTY) == ()


def test_what_repeats_itself_is_expected_to_go_on() -> None:
    assert lookup([5], [1, 2, 1, 2]).propose(4) == (1, 2, 1, 2)


def test_limits_of_a_match_can_be_chosen() -> None:
    drafts = PromptLookup(request([1, 2, 3, 1]), shortest=1, longest=1)
    assert drafts.propose(2) == (2, 3)


def run(model: Sequence[int], most: int = PLENTY) -> list[tuple[int, int]]:
    """Decode a known answer behind an empty prompt: (drafts proposed, drafts right) of each step."""
    drafts = PromptLookup(request([STOP]))
    steps, place = [], 0
    while place < len(model):
        proposed = drafts.propose(most)
        right = 0
        while right < len(proposed) and model[place + right : place + right + 1] == [proposed[right]]:
            right += 1
        steps.append((len(proposed), right))
        for token in model[place : place + right + 1]:
            drafts.extend(token)
        place += right + 1
    return steps


def test_drafts_grow_while_they_are_right() -> None:
    proposed = [drafts for drafts, _ in run([*range(10)] * 40) if drafts]
    assert proposed[:4] == [4, 8, 16, 32]
    assert max(proposed) == PLENTY


def test_wrong_drafts_become_rare() -> None:
    """An answer that keeps beginning as before and going on in another way."""
    answer = [token for number in range(300) for token in (1, 2, 1000 + number)]
    steps = run(answer)
    assert sum(right for _, right in steps) == 0
    assert sum(drafts for drafts, _ in steps) < len(answer) / 20
    assert steps[0][0] == 0


def test_right_drafts_come_back_after_wrong_ones() -> None:
    wrong = [token for number in range(100) for token in (1, 2, 1000 + number)]
    steps = run([*wrong, *([*range(10, 20)] * 20)])
    assert len(steps) < len(wrong) + 60  # of 200 more tokens


def test_proposing_again_without_a_token_changes_nothing() -> None:
    drafts = lookup([1, 2, 3, 4, 5, 6, 7], [1, 2])
    assert [drafts.propose(4) for _ in range(3)] == [(3, 4, 5, 6)] * 3


@pytest.mark.parametrize("length", [0, 1, 2, 3, 5])
def test_short_prompts(length: int) -> None:
    assert lookup([7] * length, [8, 9]).propose(PLENTY) == ()
