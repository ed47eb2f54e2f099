"""What the sampler carries from token to token: rebuilt, drafted for, forked, and reported on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from llm_service.engine.events import Logprobs
from llm_service.engine.request import SamplingParams
from llm_service.engine.sampler import Sampled, TokenSampler
from tests.unit.sampler_samples import expected_token, request

VOCAB = 12
PROMPT = (3, 1, 4, 1, 5)
LENGTH = 14

tokens = st.integers(0, VOCAB - 1)
params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.8, 2.0]),
    top_p=st.sampled_from([0.8, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.4]),
    presence_penalty=st.sampled_from([0.0, 0.7]),
    frequency_penalty=st.sampled_from([0.0, 0.4]),
    seed=st.integers(0, 2**64 - 1),
    max_tokens=st.just(LENGTH),
    min_tokens=st.sampled_from([0, 5]),
    stop_ids=st.frozensets(tokens, max_size=2),
    logprobs=st.sampled_from([None, 2]),
)


def logits(history: Sequence[int]) -> NDArray[np.float32]:
    """A model: the next token's logits, from everything before it."""
    digest = hashlib.sha256(bytes(history)).digest()
    return np.random.default_rng(list(digest)).standard_normal(VOCAB).astype(np.float32)


def answer_of(wanted: SamplingParams, choice: int = 0) -> list[Sampled]:
    """The whole answer, one row at a time."""
    sampler = TokenSampler(request(wanted, PROMPT), choice)
    sampled: list[Sampled] = []
    while len(sampled) < LENGTH:
        history = [*PROMPT, *(one.token_id for one in sampled)]
        sampled += sampler.sample(logits(history)[None])
    return sampled


def ids(sampled: Sequence[Sampled]) -> list[int]:
    return [one.token_id for one in sampled]


@settings(max_examples=100, deadline=None)
@given(wanted=params, choice=st.integers(0, 3))
def test_answer_equals_the_definition_token_by_token(wanted: SamplingParams, choice: int) -> None:
    expected: list[int] = []
    while len(expected) < LENGTH:
        row = logits([*PROMPT, *expected])
        expected.append(expected_token(row, wanted, PROMPT, expected, choice=choice))
    assert ids(answer_of(wanted, choice)) == expected


@settings(max_examples=50, deadline=None)
@given(wanted=params, cut=st.integers(0, LENGTH - 1))
def test_state_is_rebuilt_from_the_tokens_alone(wanted: SamplingParams, cut: int) -> None:
    whole = answer_of(wanted)
    sampler = TokenSampler(request(wanted, PROMPT), 0)
    for token in ids(whole[:cut]):
        sampler.accept(token)
    resumed: list[Sampled] = []
    while cut + len(resumed) < LENGTH:
        history = [*PROMPT, *ids(whole[:cut]), *ids(resumed)]
        resumed += sampler.sample(logits(history)[None])
    assert resumed == whole[cut:]


@settings(max_examples=100, deadline=None)
@given(wanted=params, data=st.data())
def test_drafts_change_no_token(wanted: SamplingParams, data: st.DataObject) -> None:
    """Right drafts, wrong ones, and right ones that end wrong, at every place."""
    whole = answer_of(wanted)
    sampler = TokenSampler(request(wanted, PROMPT), 0)
    sampled: list[Sampled] = []
    while len(sampled) < LENGTH:
        right = ids(whole[len(sampled) :])
        drafts = right[: data.draw(st.integers(0, len(right)))] + data.draw(st.lists(tokens, max_size=3))
        history = [*PROMPT, *ids(sampled)]
        rows = np.stack([logits([*history, *drafts[:count]]) for count in range(len(drafts) + 1)])
        taken = sampler.sample(rows, drafts)
        agreed = next(
            (place for place, pair in enumerate(zip(right, drafts, strict=False)) if pair[0] != pair[1]),
            len(drafts),
        )
        assert len(taken) == min(agreed + 1, len(right))
        sampled += taken
    assert sampled == whole


def test_first_choice_is_what_a_single_answer_gets() -> None:
    one = SamplingParams(temperature=2.0, seed=5, max_tokens=LENGTH)
    several = replace(one, n=4)
    assert answer_of(several, choice=0) == answer_of(one)
    assert len({tuple(ids(answer_of(several, choice))) for choice in range(4)}) == 4


def reported(row: NDArray[np.float32], **wanted: object) -> Logprobs:
    sampler = TokenSampler(request(SamplingParams(**wanted), PROMPT), 0)  # type: ignore[arg-type]
    report = sampler.sample(row[None])[0].logprobs
    assert report is not None
    return report


def log_softmax(row: NDArray[np.float32]) -> list[float]:
    total = math.log(math.fsum(math.exp(value) for value in row.tolist()))
    return [value - total for value in row.tolist()]


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(1, 3000), count=st.integers(0, 20), steps=st.integers(1, 50), noise=st.integers(0, 2**32)
)
def test_logprobs_are_of_the_models_own_distribution(size: int, count: int, steps: int, noise: int) -> None:
    # Rounded logits have many ties, which go to the smaller id.
    row = (np.random.default_rng(noise).standard_normal(size) * 2).round(1 + steps % 2).astype(np.float32)
    expected = log_softmax(row)
    report = reported(row, logprobs=count)
    ranked = sorted(range(size), key=lambda token: (-row[token], token))[:count]
    assert [token for token, _ in report.top] == ranked
    np.testing.assert_allclose([value for _, value in report.top], [expected[t] for t in ranked], atol=1e-5)
    assert report.chosen.logprob == pytest.approx(expected[report.chosen.token_id], abs=1e-5)


def test_logprobs_know_nothing_of_what_changes_the_choice() -> None:
    row = logits([1])
    plain = reported(row, logprobs=3)
    bias = tuple((token, -100.0) for token, _ in plain.top)
    changed = reported(row, logprobs=3, logit_bias=bias, repetition_penalty=1.9, temperature=0.01)
    assert changed.top == plain.top
    assert changed.chosen.token_id not in dict(plain.top)
    assert changed.chosen.logprob == pytest.approx(log_softmax(row)[changed.chosen.token_id], abs=1e-5)


def test_logprobs_are_reported_only_when_wanted() -> None:
    row = logits([1])
    assert answer_of(SamplingParams(max_tokens=LENGTH))[0].logprobs is None
    assert reported(row, logprobs=0).top == ()
    assert len(reported(row, logprobs=20).top) == VOCAB


@pytest.mark.parametrize("far", [200.0, 3e38])
def test_logprobs_of_extreme_logits_are_numbers(far: float) -> None:
    row = np.array([far, -far, 0.0], np.float32)
    with np.errstate(over="ignore"):
        report = reported(row, logprobs=3)
    assert report.chosen == (0, 0.0)
    assert [token for token, _ in report.top] == [0, 2, 1]
