"""The sampler against formulas written down a second time, plainly, and against its own promises."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from internvl.errors import InternalError
from llm_service.engine.request import SamplingParams
from llm_service.engine.sampler import RandomNumbers, sample


def uniform(seed: int, position: int) -> float:
    return RandomNumbers(seed, 0).at(position)


NO_PROMPT = np.zeros(0, np.int64)
LOGITS = np.array([2.0, 1.0, 0.5, 0.0, -1.0, -3.0], np.float32)


def probabilities(logits: list[float], params: SamplingParams) -> dict[int, float]:
    """Token -> probability after all filters, from the definitions; ties go to the smaller id."""
    if params.temperature == 0:
        return {logits.index(max(logits)): 1.0}
    powers = [math.exp((logit - max(logits)) / params.temperature) for logit in logits]
    ranked = sorted(range(len(logits)), key=lambda token: (-powers[token], token))
    if params.top_k:
        ranked = ranked[: params.top_k]
    total = sum(powers[token] for token in ranked)
    kept, reached = [], 0.0
    for token in ranked:
        if params.top_p < 1 and reached >= params.top_p * total:
            break
        kept.append(token)
        reached += powers[token]
    kept = [token for token in kept if powers[token] >= params.min_p * max(powers)]
    total = sum(powers[token] for token in kept)
    return {token: powers[token] / total for token in kept}


def inverse_cdf(chances: dict[int, float], number: float) -> int:
    """The token whose slice of [0, 1), laid out by id, holds the number."""
    reached = 0.0
    for token in sorted(chances):
        reached += chances[token]
        if number < reached:
            return token
    return max(chances)


def draw(logits: NDArray[np.float32], params: SamplingParams, position: int = 0) -> int:
    return sample(logits, params, np.zeros(position, np.int64), [])


parameters = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.1, 0.7, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 1000]),
    top_p=st.sampled_from([0.01, 0.3, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    seed=st.integers(0, 2**64 - 1),
)


@settings(max_examples=200, deadline=None)
@given(
    params=parameters,
    spread=st.sampled_from([0.1, 1.0, 5.0]),
    size=st.integers(1, 60),
    position=st.integers(0, 50),
    noise=st.integers(0, 2**32),
)
def test_equals_the_definition(
    params: SamplingParams, spread: float, size: int, position: int, noise: int
) -> None:
    logits = (np.random.default_rng(noise).standard_normal(size) * spread).astype(np.float32)
    expected = inverse_cdf(probabilities(logits.tolist(), params), uniform(params.seed, position))
    assert draw(logits, params, position) == expected


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.5, top_p=0.8),
        SamplingParams(temperature=2.0, top_k=4),
        SamplingParams(temperature=1.5, min_p=0.2),
    ],
)
def test_draws_follow_the_distribution(params: SamplingParams) -> None:
    """Chi-square over seeds; 99.99 % quantiles of 1 to 5 degrees of freedom."""
    quantiles = [15.14, 18.42, 21.11, 23.51, 25.74]
    draws = 4000
    counts = Counter(draw(LOGITS, replace(params, seed=seed), position=17) for seed in range(draws))
    expected = probabilities(LOGITS.tolist(), params)
    assert set(counts) <= set(expected)
    statistic = sum((counts[t] - draws * p) ** 2 / (draws * p) for t, p in expected.items())
    assert statistic < quantiles[len(expected) - 2]


def test_numbers_of_one_seed_are_uniform_over_positions() -> None:
    numbers = np.array([uniform(5, position) for position in range(4000)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=10, range=(0, 1))
    assert ((counts - 400) ** 2 / 400).sum() < 33.7  # 99.99 % quantile, 9 degrees of freedom
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.06


def test_a_position_has_its_number_whatever_was_drawn_before() -> None:
    params = SamplingParams(temperature=1.0, seed=3)
    forwards = [draw(LOGITS, params, position) for position in range(50)]
    backwards = [draw(LOGITS, params, position) for position in reversed(range(50))]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) > 1


def test_prompt_and_answer_count_alike_for_the_position() -> None:
    params = SamplingParams(temperature=1.0, seed=9)
    for split in range(8):
        prompt, generated = np.zeros(split, np.int64), [0] * (7 - split)
        assert sample(LOGITS, params, prompt, generated) == draw(LOGITS, params, position=7)


def test_seeds_differ() -> None:
    drawn = {
        tuple(draw(LOGITS, SamplingParams(temperature=2.0, seed=seed), n) for n in range(20))
        for seed in range(20)
    }
    assert len(drawn) == 20


def test_repetition_penalty_weakens_what_prompt_or_answer_hold() -> None:
    logits = np.array([2.0, 1.5, -1.0, -1.4], np.float32)
    params = SamplingParams(repetition_penalty=1.5)
    assert sample(logits, params, NO_PROMPT, []) == 0
    assert sample(logits, params, np.array([0]), []) == 1
    assert sample(logits, params, NO_PROMPT, [0]) == 1
    # A negative logit moves down, not up: -1.0 * 1.5 falls below -1.4.
    masked = np.array([-9.0, -9.0, -1.0, -1.4], np.float32)
    assert sample(masked, params, np.array([2]), []) == 3


def test_presence_counts_once_and_frequency_each_time() -> None:
    logits = np.array([2.0, 1.0], np.float32)
    presence, frequency = SamplingParams(presence_penalty=0.6), SamplingParams(frequency_penalty=0.6)
    assert sample(logits, presence, NO_PROMPT, [0, 0, 0]) == 0
    assert sample(logits, frequency, NO_PROMPT, [0]) == 0
    assert sample(logits, frequency, NO_PROMPT, [0, 0]) == 1
    assert sample(logits, frequency, np.array([0, 0]), []) == 0  # the prompt does not count
    assert sample(logits, SamplingParams(presence_penalty=-2.0), NO_PROMPT, [1]) == 1


def test_stop_ids_wait_for_min_tokens() -> None:
    params = SamplingParams(min_tokens=2, stop_ids=frozenset({0}))
    assert sample(LOGITS, params, NO_PROMPT, []) == 1
    assert sample(LOGITS, params, NO_PROMPT, [1]) == 1
    assert sample(LOGITS, params, NO_PROMPT, [1, 1]) == 0


def test_logits_are_left_alone() -> None:
    logits = LOGITS.copy()
    params = SamplingParams(
        temperature=1.0,
        repetition_penalty=1.3,
        presence_penalty=1.0,
        frequency_penalty=1.0,
        min_tokens=5,
        stop_ids=frozenset({0}),
    )
    sample(logits, params, np.array([1, 2]), [1, 3])
    np.testing.assert_array_equal(logits, LOGITS)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_an_error(bad: float) -> None:
    logits = LOGITS.copy()
    logits[4] = bad
    with pytest.raises(InternalError, match="not a number"):
        sample(logits, SamplingParams(temperature=1.0), NO_PROMPT, [])
