"""Softmax attention in plain Paddle operators, with the score matrix kept to a bounded size.

Scores are float32 and softmax subtracts the row maximum, whatever the type of the activations.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from kernels.ops import Tensor

# Bound on the scores computed at once: enough for efficient products, small beside the weights.
_MAX_BLOCK_SCORES = 1 << 24


def full_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """See `Ops.full_attention`."""
    tiles, tokens, heads, _ = q.shape
    at_once = max(1, _MAX_BLOCK_SCORES // (heads * tokens * tokens))
    parts = [
        _full_block(q[i : i + at_once], k[i : i + at_once], v[i : i + at_once])
        for i in range(0, tiles, at_once)
    ]
    return parts[0] if len(parts) == 1 else paddle.concat(parts)


def _full_block(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    tiles, tokens, heads, size = q.shape
    q, k, v = (x.transpose([0, 2, 1, 3]) for x in (q * size**-0.5, k, v))
    mixed = paddle.matmul(_softmax(paddle.matmul(q, k, transpose_y=True), v), v)
    return mixed.transpose([0, 2, 1, 3]).reshape([tiles, tokens, heads * size])


def _softmax(scores: Tensor, values: Tensor) -> Tensor:
    if scores.dtype == paddle.float32:
        return F.softmax(scores, axis=-1)
    return F.softmax(scores, axis=-1, dtype="float32").astype(values.dtype)
