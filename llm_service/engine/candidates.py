"""The tokens that may be drawn from logits, and the draw itself."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from llm_service.engine.request import SamplingParams

Logits: TypeAlias = NDArray[np.float32]
Ids: TypeAlias = NDArray[np.int64]
Weights: TypeAlias = NDArray[np.float32]


_NEGLIGIBLE = np.float32(-104)  # and less has an exponential of zero
_ROWS = 32  # the vocabulary is folded into so many rows to look for its largest values


def candidates(logits: Logits, highest: np.float32, params: SamplingParams) -> tuple[Ids, Weights]:
    """The tokens that may be drawn, by rising id, and their weights (not normalised).

    Temperature first, then top-k, top-p of what is left, min-p.

    Args:
        logits: float32 [vocabulary]; minus infinity where a token is forbidden.
        highest: the largest of them.
    """
    scaled = (logits - highest) / np.float32(params.temperature)
    ids: Ids = np.flatnonzero(scaled > _NEGLIGIBLE)
    weights: Weights = np.exp(scaled[ids])
    if 0 < params.top_k < len(ids):
        ids, weights = _keep(np.sort(likeliest(weights, params.top_k)), ids, weights)
    if params.top_p < 1:
        ids, weights = _keep(_top_p(weights, params.top_p), ids, weights)
    if params.min_p > 0:
        ids, weights = _keep(np.flatnonzero(weights >= params.min_p), ids, weights)  # the likeliest weighs 1
    return ids, weights


def likeliest(values: NDArray[np.float32], k: int) -> Ids:
    """Where the k largest values are, `1 <= k <= len(values)`: by falling value, among equals by place."""
    return _by_falling_value(np.flatnonzero(values >= _bound(values, k)), values)[:k]


def draw(ids: Ids, weights: Weights, number: float) -> int:
    """Invert the cumulative distribution at a number in [0, 1).

    In the order of ids: rounding noise in the weights never reorders it.
    """
    cumulative = np.cumsum(weights, dtype=np.float64)
    index = np.searchsorted(cumulative, number * cumulative[-1], side="right")
    return int(ids[min(index, len(ids) - 1)])


def _keep(places: Ids, ids: Ids, weights: Weights) -> tuple[Ids, Weights]:
    return ids[places], weights[places]


def _bound(values: NDArray[np.float32], k: int) -> np.float32:
    """A value that at least k values reach, and few others.

    The k-th largest of the columns' maxima is one, found in a tenth of the time of the k-th largest of all.
    """
    columns = len(values) // _ROWS
    if k <= columns:
        values = values[: columns * _ROWS].reshape(_ROWS, columns).max(axis=0)
    return np.float32(np.partition(values, -k)[-k])


def _top_p(weights: Weights, p: float) -> Ids:
    total = weights.sum(dtype=np.float64)
    # Tokens below (1 - p) / n of the total add up to less than 1 - p of it, so the others reach p without
    # them, and the long tail of the vocabulary need not be sorted.
    places = _by_falling_value(np.flatnonzero(weights >= (1 - p) / len(weights) * total), weights)
    reached = np.cumsum(weights[places], dtype=np.float64)
    return np.sort(places[reached - weights[places] < p * total])


def _by_falling_value(ids: Ids, values: NDArray[np.float32]) -> Ids:
    return ids[np.argsort(-values[ids], kind="stable")]
