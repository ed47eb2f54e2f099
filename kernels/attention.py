"""Softmax attention in plain Paddle operators, with the score matrix kept to a bounded size.

Scores are float32 and softmax subtracts the row maximum, whatever the type of the activations.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from kernels.ops import Tensor

# Bound on the scores computed at once: enough for efficient products, small beside the weights.
_MAX_BLOCK_SCORES = 1 << 24


def full_attention(qkv: Tensor, heads: int) -> Tensor:
    """See `Ops.full_attention`."""
    tiles, tokens, _ = qkv.shape
    at_once = max(1, _MAX_BLOCK_SCORES // (heads * tokens * tokens))
    parts = [_full_block(qkv[i : i + at_once], heads) for i in range(0, tiles, at_once)]
    return parts[0] if len(parts) == 1 else paddle.concat(parts)


def _full_block(qkv: Tensor, heads: int) -> Tensor:
    tiles, tokens, width = qkv.shape
    size = width // (3 * heads)
    q, k, v = qkv.reshape([tiles, tokens, 3, heads, size]).transpose([2, 0, 3, 1, 4]).unbind()
    mixed = paddle.matmul(_softmax(paddle.matmul(q * size**-0.5, k, transpose_y=True), v), v)
    return mixed.transpose([0, 2, 1, 3]).reshape([tiles, tokens, heads * size])


def _softmax(scores: Tensor, values: Tensor) -> Tensor:
    if scores.dtype == paddle.float32:
        return F.softmax(scores, axis=-1)
    return F.softmax(scores, axis=-1, dtype="float32").astype(values.dtype)
