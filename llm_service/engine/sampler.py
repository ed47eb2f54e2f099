"""Choosing the next token from logits, in numpy.

Order: penalties, stop ids while the answer is too short, temperature, top-k, top-p of what is left, min-p.
The random number of a token depends on nothing but (seed, position): a request draws the same numbers alone,
in any batch, and after its state was rebuilt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from internvl.errors import InternalError
from llm_service.engine.request import SamplingParams

Logits: TypeAlias = NDArray[np.float32]
Ids: TypeAlias = NDArray[np.int64]
Weights: TypeAlias = NDArray[np.float32]


def sample(
    logits: Logits,
    params: SamplingParams,
    prompt_ids: Ids,
    generated: Sequence[int],
) -> int:
    """Choose the token that follows the prompt and the answer so far.

    Args:
        logits: float32 [vocabulary]; not changed.
        prompt_ids: int64 [prompt tokens].

    Raises:
        InternalError: the logits are not numbers.
    """
    logits = _forbid_early_stop(_penalize(logits, params, prompt_ids, generated), params, len(generated))
    best = int(logits.argmax())
    if not np.isfinite(logits[best]):
        raise InternalError("the model's output for this request is not a number")
    if params.temperature == 0:
        return best
    kept, weights = _candidates(logits, params)
    return _draw(kept, weights, params.seed, len(prompt_ids) + len(generated))


def uniform(seed: int, position: int) -> float:
    """The random number in [0, 1) of a position: Philox keyed by the seed, counting positions."""
    return float(np.random.Generator(np.random.Philox(key=seed, counter=position)).random())


def _penalize(logits: Logits, params: SamplingParams, prompt_ids: Ids, generated: Sequence[int]) -> Logits:
    if params.repetition_penalty != 1:
        logits = logits.copy()
        seen = np.unique(np.concatenate([prompt_ids, np.array(generated, np.int64)]))
        values = logits[seen]
        factor = np.float32(params.repetition_penalty)
        logits[seen] = np.where(values > 0, values / factor, values * factor)
    if generated and (params.presence_penalty or params.frequency_penalty):
        logits = logits.copy()
        seen, counts = np.unique(np.array(generated, np.int64), return_counts=True)
        penalty = params.presence_penalty + params.frequency_penalty * counts
        logits[seen] -= penalty.astype(np.float32)
    return logits


def _forbid_early_stop(logits: Logits, params: SamplingParams, generated: int) -> Logits:
    if generated >= params.min_tokens or not params.stop_ids:
        return logits
    logits = logits.copy()
    logits[list(params.stop_ids)] = -np.inf
    return logits


def _candidates(logits: Logits, params: SamplingParams) -> tuple[Ids, Weights]:
    """The tokens that may be drawn, by rising id, and their weights (not normalised)."""
    weights = np.exp((logits - logits.max()) / np.float32(params.temperature))
    ids: Ids = np.arange(len(weights))
    if 0 < params.top_k < len(weights):
        ids = _top_k(weights, params.top_k)
    if params.top_p < 1:
        ids = _top_p(ids, weights, params.top_p)
    if params.min_p > 0:
        ids = ids[weights[ids] >= params.min_p]  # the likeliest token's weight is 1
    return ids, weights[ids]


def _top_k(weights: Weights, k: int) -> Ids:
    smallest = np.partition(weights, -k)[-k]
    return np.sort(_likeliest_first(np.flatnonzero(weights >= smallest), weights)[:k])


def _top_p(ids: Ids, weights: Weights, p: float) -> Ids:
    total = weights[ids].sum(dtype=np.float64)
    # Tokens below (1 - p) / n of the total add up to less than 1 - p of it, so the others reach p without
    # them, and the long tail of the vocabulary need not be sorted.
    ids = _likeliest_first(ids[weights[ids] >= (1 - p) / len(ids) * total], weights)
    reached = np.cumsum(weights[ids], dtype=np.float64)
    return np.sort(ids[reached - weights[ids] < p * total])


def _likeliest_first(ids: Ids, weights: Weights) -> Ids:
    """By falling weight; among equals by rising id."""
    return ids[np.argsort(-weights[ids], kind="stable")]


def _draw(ids: Ids, weights: Weights, seed: int, position: int) -> int:
    """Invert the cumulative distribution, in the order of ids: rounding noise never reorders it."""
    cumulative = np.cumsum(weights, dtype=np.float64)
    index = np.searchsorted(cumulative, uniform(seed, position) * cumulative[-1], side="right")
    return int(ids[min(index, len(ids) - 1)])
