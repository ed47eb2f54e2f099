"""Softmax attention in plain Paddle operators, with the score matrix kept to a bounded size.

Scores are float32 and softmax subtracts the row maximum, whatever the type of the activations.
"""

from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F

from kernels.ops import Tensor

# Bounds on the scores of one block: enough for efficient products, small beside the weights at any context
# length, and not so many rows that a causal block spends its time above the diagonal.
_MAX_BLOCK_SCORES = 1 << 24
_MAX_CAUSAL_ROWS = 256


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


def causal_attention(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """See `Ops.causal_attention`."""
    tokens, heads, size = q.shape
    kv_heads, total, _ = keys.shape
    past = total - tokens
    q = (q * size**-0.5).transpose([1, 0, 2])
    rows = max(1, min(_MAX_CAUSAL_ROWS, _MAX_BLOCK_SCORES // (heads * total)))
    parts = []
    for start in range(0, tokens, rows):
        end = min(start + rows, tokens)
        seen = past + end
        block = q[:, start:end].reshape([kv_heads, -1, size])
        parts.append(_causal_block(block, keys[:, :seen], values[:, :seen], end - start))
    mixed = parts[0] if len(parts) == 1 else paddle.concat(parts, axis=1)
    return mixed.transpose([1, 0, 2]).reshape([tokens, heads * size])


def _causal_block(q: Tensor, keys: Tensor, values: Tensor, tokens: int) -> Tensor:
    """The last `tokens` tokens of `keys`: q [kv_heads, group * tokens, d] -> [heads, tokens, d]."""
    kv_heads, rows, size = q.shape
    group, seen = rows // tokens, keys.shape[1]
    scores = paddle.matmul(q, keys, transpose_y=True)
    if tokens > 1:
        hidden = paddle.triu(
            paddle.full([tokens, seen], -math.inf, dtype=scores.dtype), diagonal=seen - tokens + 1
        )
        scores = (scores.reshape([kv_heads, group, tokens, seen]) + hidden).reshape([kv_heads, rows, seen])
    return paddle.matmul(_softmax(scores, values), values).reshape([kv_heads * group, tokens, size])


def _softmax(scores: Tensor, values: Tensor) -> Tensor:
    if scores.dtype == paddle.float32:
        return F.softmax(scores, axis=-1)
    return F.softmax(scores, axis=-1, dtype="float32").astype(values.dtype)
