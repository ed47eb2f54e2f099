"""Paged attention whose every row is computed in the same steps whatever it is computed with.

Each query head meets the keys in steps of a fixed number of tokens, by products of one fixed shape; the
largest score is exact, and what the steps give is added up in the order of the tokens. A step of which a row
sees nothing weighs exp(-inf) = 0 and adds exactly nothing, so that neither the length of a neighbour nor the
rows of a chunk can reach a result.
"""

from __future__ import annotations

import math

import numpy as np
import paddle
from numpy.typing import NDArray

from kernels.host import on_device
from kernels.kv_pool import Gathered, PagedPool
from kernels.ops import Tensor
from kernels.paged import KvShape
from kernels.paged_attention import Group, PagedAttention
from kernels.paged_groups import Span

# Tokens of a step, at least; a multiple of any vector's length, or the last numbers of a tensor would go
# through another form of exp than those before them.
_STEP = 64
_VECTOR = 16


class InvariantAttention(PagedAttention):
    """The form for equal results."""

    def group(self, span: Span, heads: int, pool: PagedPool) -> Group:
        """The mask is [sequences * kv_heads, steps, rows, heads / kv_heads, tokens of a step]."""
        shape = pool.shape
        step = step_tokens(shape.block_size)
        tables = _padded(span.tables, step // shape.block_size)
        count, steps = len(tables), tables.shape[1] * shape.block_size // step
        mask = (
            span.mask(steps * step).reshape(count, 1, span.rows, steps, 1, step).transpose(0, 1, 3, 2, 4, 5)
        )
        spread = np.broadcast_to(
            mask, (count, shape.kv_heads, steps, span.rows, heads // shape.kv_heads, step)
        )
        whole = np.ascontiguousarray(spread).reshape(count * shape.kv_heads, *spread.shape[2:])
        index = on_device(pool.gather_index(tables), pool.device)
        return Group(span.start, span.end, count, span.rows, index, on_device(whole, pool.device))

    def attend(self, q: Tensor, cache: Gathered, group: Group, shape: KvShape) -> Tensor:
        """See `PagedAttention.attend`."""
        heads, steps, rows, parts, step = group.mask.shape
        q = q.reshape([group.sequences, rows, shape.kv_heads, parts, shape.head_dim])
        q = q.transpose([0, 2, 1, 3, 4]).reshape([heads, 1, rows, parts, shape.head_dim])
        keys = cache.keys.reshape([heads, steps, 1, step, shape.head_dim])
        values = cache.values.reshape(keys.shape)
        scores = paddle.matmul(q, keys, transpose_y=True)
        if cache.key_scales is not None:
            scores = scores * cache.key_scales.reshape([heads, steps, 1, 1, step])
        scores = scores + group.mask
        weights = paddle.exp(scores - scores.max(-1, keepdim=True).max(1, keepdim=True))
        total = _in_order(weights.sum(-1, keepdim=True))
        if cache.value_scales is not None:
            weights = weights * cache.value_scales.reshape([heads, steps, 1, 1, step])
        mixed = _in_order(paddle.matmul(weights, values)) / total
        mixed = mixed.reshape([group.sequences, shape.kv_heads, rows, parts, shape.head_dim])
        return mixed.transpose([0, 2, 1, 3, 4]).reshape([group.sequences * rows, -1])


def step_tokens(block_size: int) -> int:
    """Tokens of a step: whole blocks, whole vectors, `_STEP` or the least number above it."""
    unit = math.lcm(block_size, _VECTOR)
    return unit * -(-_STEP // unit)


def _in_order(parts: Tensor) -> Tensor:
    """Sum over axis 1 from its first entry to its last, which no reduction promises."""
    first, *others = paddle.unbind(parts, axis=1)
    for part in others:
        first = first + part
    return first


def _padded(tables: NDArray[np.int32], multiple: int) -> NDArray[np.int32]:
    return np.pad(tables, ((0, 0), (0, -tables.shape[1] % multiple)))
