"""How likely tokens are by the model's own distribution."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from llm_service.engine.candidates import likeliest
from llm_service.engine.events import Logprobs, TokenLogprob


def logprobs(logits: NDArray[np.float32], token_id: int, alternatives: int) -> Logprobs:
    """The natural logarithm of a token's probability, and of the likeliest tokens in its place.

    Args:
        logits: float32 [vocabulary], as the model gave them: before penalties, bias, grammar and temperature.
        token_id: the token chosen; it may be among the likeliest as well.
        alternatives: how many of the likeliest to report, likeliest first; among equals the smaller id.
    """
    highest = float(logits.max())
    total = highest + math.log(np.exp(logits - np.float32(highest)).sum(dtype=np.float64))
    best = likeliest(logits, min(alternatives, len(logits))) if alternatives else ()
    return Logprobs(
        TokenLogprob(token_id, float(logits[token_id]) - total),
        tuple(TokenLogprob(int(token), float(logits[token]) - total) for token in best),
    )
