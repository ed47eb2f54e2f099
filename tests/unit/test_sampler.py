"""The sampler against its definitions written down a second time, and against its own promises."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from internvl.errors import InternalError
from llm_service.engine.request import SamplingParams
from llm_service.engine.sampler import RandomNumbers, TokenSampler
from tests.unit.sampler_samples import expected_token, philox, probabilities, request

LOGITS = np.array([2.0, 1.0, 0.5, 0.0, -1.0, -3.0], np.float32)
VOCAB = 12
STOP = 0


def next_token(
    logits: NDArray[np.float32],
    params: SamplingParams,
    prompt: Sequence[int] = (),
    answer: Sequence[int] = (),
    choice: int = 0,
) -> int:
    sampler = TokenSampler(request(params, prompt), choice)
    for token in answer:
        sampler.accept(token)
    return sampler.sample(logits[None])[0].token_id


def draw(logits: NDArray[np.float32], params: SamplingParams, position: int = 0) -> int:
    return next_token(logits, params, prompt=[0] * position)


@dataclass(frozen=True)
class Script:
    """A grammar that allows a fixed set of tokens at each place of the answer."""

    sets: tuple[frozenset[int], ...]

    def start(self, stop_ids: frozenset[int]) -> Actor:
        del stop_ids
        return Actor(self.sets)


class Actor:
    def __init__(self, sets: tuple[frozenset[int], ...]) -> None:
        self._sets = sets
        self._place = 0

    def restrict(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        forbidden = [token for token in range(len(logits)) if token not in self._sets[self._place]]
        restricted = logits.copy()
        restricted[forbidden] = -np.inf
        return restricted

    def accept(self, token_id: int) -> None:
        assert token_id in self._sets[self._place]
        self._place += 1


tokens = st.integers(0, VOCAB - 1)
filters = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.1, 0.7, 1.0, 2.0]),
        "top_k": st.sampled_from([0, 1, 2, 5, 1000]),
        "top_p": st.sampled_from([0.01, 0.3, 0.9, 0.999, 1.0]),
        "min_p": st.sampled_from([0.0, 0.05, 0.5, 1.0]),
        "seed": st.integers(0, 2**64 - 1),
    }
)
changes = st.fixed_dictionaries(
    {
        "repetition_penalty": st.sampled_from([1.0, 1.3, 0.5]),
        "presence_penalty": st.sampled_from([0.0, 0.7, -2.0]),
        "frequency_penalty": st.sampled_from([0.0, 0.4, -0.3]),
        "logit_bias": st.dictionaries(tokens, st.sampled_from([-100.0, -1.0, 2.5, 100.0]), max_size=4).map(
            lambda bias: tuple(sorted(bias.items()))
        ),
        "min_tokens": st.integers(0, 6),
        "stop_ids": st.frozensets(tokens, max_size=3),
    }
)


@settings(max_examples=200, deadline=None)
@given(
    wanted=filters,
    spread=st.sampled_from([0.1, 1.0, 5.0]),
    size=st.integers(1, 200),
    position=st.integers(0, 50),
    noise=st.integers(0, 2**32),
)
def test_filters_equal_their_definition(
    wanted: dict[str, float], spread: float, size: int, position: int, noise: int
) -> None:
    logits = (np.random.default_rng(noise).standard_normal(size) * spread).astype(np.float32)
    params = SamplingParams(**wanted)
    assert draw(logits, params, position) == expected_token(logits, params, [0] * position, [])


@settings(max_examples=200, deadline=None)
@given(
    wanted=filters,
    changed=changes,
    prompt=st.lists(tokens, max_size=6),
    answer=st.lists(tokens, max_size=6),
    allowed=st.none() | st.frozensets(tokens, min_size=1),
    choice=st.integers(0, 15),
    noise=st.integers(0, 2**32),
)
def test_order_of_all_steps_equals_its_definition(
    wanted: dict[str, float],
    changed: dict[str, object],
    prompt: list[int],
    answer: list[int],
    allowed: frozenset[int] | None,
    choice: int,
    noise: int,
) -> None:
    logits = np.random.default_rng(noise).standard_normal(VOCAB).astype(np.float32)
    everything = frozenset(range(VOCAB))
    grammar = None if allowed is None else Script((everything,) * len(answer) + (allowed,))
    params = SamplingParams(**wanted, **changed, grammar=grammar)  # type: ignore[arg-type]
    expected = expected_token(
        logits, params, prompt, answer, choice=choice, allowed=None if allowed is None else set(allowed)
    )
    assert next_token(logits, params, prompt, answer, choice) == expected


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.5, top_p=0.8),
        SamplingParams(temperature=2.0, top_k=4),
        SamplingParams(temperature=1.5, min_p=0.2),
    ],
)
@pytest.mark.parametrize("choice", [0, 3])
def test_draws_follow_the_distribution(params: SamplingParams, choice: int) -> None:
    """Chi-square over seeds; 99.99 % quantiles of 1 to 5 degrees of freedom."""
    quantiles = [15.14, 18.42, 21.11, 23.51, 25.74]
    draws = 4000
    counts = Counter(
        next_token(LOGITS, replace(params, seed=seed), [0] * 17, choice=choice) for seed in range(draws)
    )
    expected = probabilities(LOGITS.tolist(), params)
    assert set(counts) <= set(expected)
    statistic = sum((counts[t] - draws * p) ** 2 / (draws * p) for t, p in expected.items())
    assert statistic < quantiles[len(expected) - 2]


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    choice=st.integers(0, 15),
    positions=st.lists(st.integers(0, 300) | st.integers(0, 2**40), min_size=1, max_size=8),
)
def test_numbers_are_those_of_philox_in_any_order(seed: int, choice: int, positions: list[int]) -> None:
    numbers = RandomNumbers(seed, choice)
    assert [numbers.at(position) for position in positions] == [
        philox(seed, choice, position) for position in positions
    ]


@pytest.mark.parametrize("along", ["positions", "choices", "seeds"])
def test_numbers_are_uniform_and_unrelated(along: str) -> None:
    keys = {"positions": (5, 0, 1), "choices": (5, 1, 0), "seeds": (1, 0, 0)}[along]
    cells = [(5, 0, n) if keys[2] else (5, n, 7) if keys[1] else (n, 0, 7) for n in range(4000)]
    numbers = np.array([RandomNumbers(seed, choice).at(position) for seed, choice, position in cells])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=10, range=(0, 1))
    assert ((counts - 400) ** 2 / 400).sum() < 33.7  # 99.99 % quantile, 9 degrees of freedom
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.06


def test_prompt_and_answer_count_alike_for_the_position() -> None:
    params = SamplingParams(temperature=1.0, seed=9)
    for split in range(8):
        assert next_token(LOGITS, params, [0] * split, [0] * (7 - split)) == draw(LOGITS, params, position=7)


def test_seeds_and_choices_differ() -> None:
    drawn = {
        tuple(
            next_token(LOGITS, SamplingParams(temperature=2.0, seed=seed), [0] * n, choice=choice)
            for n in range(20)
        )
        for seed in range(10)
        for choice in range(4)
    }
    assert len(drawn) == 40


def test_repetition_penalty_weakens_what_prompt_or_answer_hold() -> None:
    logits = np.array([2.0, 1.5, -1.0, -1.4], np.float32)
    params = SamplingParams(repetition_penalty=1.5)
    assert next_token(logits, params) == 0
    assert next_token(logits, params, prompt=[0]) == 1
    assert next_token(logits, params, answer=[0]) == 1
    # A negative logit moves down, not up: -1.0 * 1.5 falls below -1.4.
    masked = np.array([-9.0, -9.0, -1.0, -1.4], np.float32)
    assert next_token(masked, params, prompt=[2]) == 3


def test_least_repetition_penalty_overflows_nothing() -> None:
    params = SamplingParams(repetition_penalty=1e-45, temperature=1.0)
    assert next_token(LOGITS, params, prompt=[1, 4]) == 1


def test_presence_counts_once_and_frequency_each_time() -> None:
    logits = np.array([2.0, 1.0], np.float32)
    presence, frequency = SamplingParams(presence_penalty=0.6), SamplingParams(frequency_penalty=0.6)
    assert next_token(logits, presence, answer=[0, 0, 0]) == 0
    assert next_token(logits, frequency, answer=[0]) == 0
    assert next_token(logits, frequency, answer=[0, 0]) == 1
    assert next_token(logits, frequency, prompt=[0, 0]) == 0  # the prompt does not count
    assert next_token(logits, SamplingParams(presence_penalty=-2.0), answer=[1]) == 1


def test_stop_ids_wait_for_min_tokens() -> None:
    params = SamplingParams(min_tokens=2, stop_ids=frozenset({0}), logit_bias=((0, 100.0),))
    assert next_token(LOGITS, params) == 1
    assert next_token(LOGITS, params, answer=[1]) == 1
    assert next_token(LOGITS, params, answer=[1, 1]) == 0


def test_no_bias_allows_what_the_grammar_forbids() -> None:
    bias = tuple((token, 100.0 if token == 3 else -100.0) for token in range(len(LOGITS)))
    params = SamplingParams(logit_bias=bias, grammar=Script((frozenset({4, 5}),)))
    assert next_token(LOGITS, params) == 4


def test_min_tokens_give_way_where_the_grammar_leaves_only_stop_ids() -> None:
    stops = frozenset({0, 1})
    params = SamplingParams(min_tokens=5, stop_ids=stops, grammar=Script((stops, stops | {5})))
    assert next_token(LOGITS, params) == 0
    assert next_token(LOGITS, params, answer=[0]) == 5


def test_logits_are_left_alone() -> None:
    rows = LOGITS[None].copy()
    params = SamplingParams(
        temperature=1.0,
        repetition_penalty=1.3,
        presence_penalty=1.0,
        frequency_penalty=1.0,
        min_tokens=5,
        stop_ids=frozenset({0}),
        logit_bias=((1, 5.0),),
        logprobs=3,
        grammar=Script((frozenset({1, 3}),) * 3),
    )
    sampler = TokenSampler(request(params, [1, 2]), 0)
    sampler.accept(1)
    sampler.accept(3)
    sampler.sample(rows)
    np.testing.assert_array_equal(rows[0], LOGITS)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("changes", [{}, {"min_tokens": 1}, {"grammar": Script((frozenset({1}),))}])
def test_logits_that_are_no_numbers_are_an_error(bad: float, changes: dict[str, object]) -> None:
    logits = LOGITS.copy()
    logits[4] = bad
    params = SamplingParams(temperature=1.0, stop_ids=frozenset({4}), **changes)  # type: ignore[arg-type]
    with pytest.raises(InternalError, match="not a number"):
        next_token(logits, params)
