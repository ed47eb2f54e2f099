"""Choosing the next token from logits, in numpy.

Order: penalties, stop ids while the answer is too short, temperature, top-k, top-p of what is left, min-p.
The random number of a token depends on nothing but (seed, position): a request draws the same numbers alone,
in any batch, and after its state was rebuilt.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from internvl.errors import InternalError
from llm_service.engine.request import SamplingParams

Logits = NDArray[np.float32]


def sample(
    logits: Logits,
    params: SamplingParams,
    prompt_ids: NDArray[np.int64],
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


def _penalize(
    logits: Logits, params: SamplingParams, prompt_ids: NDArray[np.int64], generated: Sequence[int]
) -> Logits:
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


def _candidates(logits: Logits, params: SamplingParams) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The tokens that may be drawn, by id, and their weights (not normalised)."""
    scaled = logits.astype(np.float64) / params.temperature
    weights = np.exp(scaled - scaled.max())
    kept = np.flatnonzero(weights >= params.min_p)  # the likeliest token's weight is 1
    if 0 < params.top_k < len(logits) or params.top_p < 1:
        # min-p looks only at the likeliest token, so it may come first; top-p must see what it would cut.
        kept = np.intersect1d(kept, _top(weights, params), assume_unique=True)
    return kept, weights[kept]


def _top(weights: NDArray[np.float64], params: SamplingParams) -> NDArray[np.int64]:
    """Ids of the top-k tokens, and of those the likeliest that add up to top-p."""
    ids = _head(weights, params)
    ids = ids[np.argsort(-weights[ids], kind="stable")]
    if params.top_k:
        ids = ids[: params.top_k]
    before = np.cumsum(weights[ids]) - weights[ids]
    total = weights[ids].sum() if params.top_k else weights.sum()
    return ids[before < params.top_p * total]


def _head(weights: NDArray[np.float64], params: SamplingParams) -> NDArray[np.int64]:
    """A few tokens that hold all of top-k and top-p, so that the vocabulary need not be sorted.

    Top-k: nothing below the k-th largest weight. Top-p: all tokens below (1 - p) / n of the total add up to
    less than 1 - p of it, so the rest reaches p without them.
    """
    floor = 0.0
    if 0 < params.top_k < len(weights):
        floor = np.partition(weights, -params.top_k)[-params.top_k]
    else:
        floor = (1 - params.top_p) / len(weights) * weights.sum()
    head: NDArray[np.int64] = np.flatnonzero(weights >= floor)
    return head


def _draw(ids: NDArray[np.int64], weights: NDArray[np.float64], seed: int, position: int) -> int:
    """Invert the cumulative distribution, in the order of ids: rounding noise never reorders it."""
    cumulative = np.cumsum(weights)
    index = np.searchsorted(cumulative, uniform(seed, position) * cumulative[-1], side="right")
    return int(ids[min(index, len(ids) - 1)])
