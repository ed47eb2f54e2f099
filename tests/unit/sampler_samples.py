"""The sampler written down a second time, plainly: each token from the whole history, by the definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llm_service.engine.request import Request, SamplingParams

_MASK = 2**64 - 1


def request(params: SamplingParams, prompt: Sequence[int] = ()) -> Request:
    return Request("r", np.array(prompt, np.int64), params)


def philox(seed: int, choice: int, position: int) -> float:
    """Philox 4x64, 10 rounds (Salmon et al., 2011), as numpy counts: it adds one before it draws."""
    words = [(position + 1) & _MASK, (position + 1) >> 64, 0, 0]
    keys = [seed, choice]
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * words[0], 2**64)
        high1, low1 = divmod(0xCA5A826395121157 * words[2], 2**64)
        words = [high1 ^ words[1] ^ keys[0], low1, high0 ^ words[3] ^ keys[1], low0]
        keys = [(keys[0] + 0x9E3779B97F4A7C15) & _MASK, (keys[1] + 0xBB67AE8584CAA73B) & _MASK]
    return (words[0] >> 11) / 2**53


def adjusted(
    logits: NDArray[np.float32],
    params: SamplingParams,
    prompt: Sequence[int],
    answer: Sequence[int],
    allowed: set[int] | None = None,
) -> list[float]:
    """Logits after penalties, bias, grammar and least length, token by token."""
    values = []
    for token, logit in enumerate(logits):
        value = np.float32(logit)
        if token in prompt or token in answer:
            factor = np.float32(params.repetition_penalty)
            value = value / factor if value > 0 else value * factor
        if token in answer:
            value -= np.float32(params.presence_penalty + params.frequency_penalty * answer.count(token))
        value += np.float32(dict(params.logit_bias).get(token, 0))
        values.append(float(value) if allowed is None or token in allowed else -math.inf)
    shorter = [-math.inf if token in params.stop_ids else value for token, value in enumerate(values)]
    forced = allowed is not None and max(shorter) == -math.inf
    return shorter if len(answer) < params.min_tokens and not forced else values


def probabilities(logits: Sequence[float], params: SamplingParams) -> dict[int, float]:
    """Token -> probability after all filters; ties go to the smaller id."""
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


def expected_token(
    logits: NDArray[np.float32],
    params: SamplingParams,
    prompt: Sequence[int],
    answer: Sequence[int],
    *,
    choice: int = 0,
    allowed: set[int] | None = None,
) -> int:
    """The token that follows, from the definitions."""
    values = adjusted(logits, params, prompt, answer, allowed)
    number = philox(params.seed, choice, len(prompt) + len(answer))
    return inverse_cdf(probabilities(values, params), number)
