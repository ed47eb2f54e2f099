"""Softmax attention over block tables in plain Paddle operators.

The sequences of a step are computed in groups: many that decode together, padded to the longest of them, or
some rows of one prompt. The scores of a group are bounded, and so is what it copies out of the cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import paddle
import paddle.nn.functional as F
from numpy.typing import NDArray

from kernels.kv_pool import Gathered, PagedPool
from kernels.ops import Tensor
from kernels.paged import KvShape, PagedBatch

# Bounds of a group: of its scores, and of the numbers gathered for its keys.
_MAX_SCORES = 1 << 24
_MAX_GATHERED = 1 << 20
# Of one prompt: not so many rows that most of a causal block lies above the diagonal.
_MAX_ROWS = 256
# Sequences up to this many rows are computed with others of as many rows.
_FEW_ROWS = 16
# Padding that a second group would save but not repay, in tokens.
_WORTHLESS_PADDING = 400


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive sequences with the same number of rows each, or some rows of one sequence.

    Attributes:
        sequences: first and last + 1.
        skip: rows of the (one) sequence before those here.
        rows: rows of each sequence.
        blocks: length of the longest block table.
    """

    sequences: range
    skip: int
    rows: int
    blocks: int


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """A span with its indices.

    Attributes:
        start, end: rows of the batch.
        sequences: how many.
        index: see `PagedPool.gather`.
        mask: float32, 0 for visible tokens and -inf for others; [sequences * kv_heads, group * rows, tokens],
            or [rows, tokens] where there is one sequence.
    """

    start: int
    end: int
    sequences: int
    index: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What the layers of one pass share.

    Attributes:
        cos, sin: float32 [rows, heads of the product * d]; 1 and 0 for values, scaled for queries.
        turn: [d, d], takes channels (a, b) of a pair to (-b, a).
        store: see `PagedPool.store`.
        padding: rows at the end that belong to no sequence.
    """

    cos: Tensor
    sin: Tensor
    turn: Tensor
    store: Tensor
    groups: tuple[Group, ...]
    padding: int


def plan_attention(batch: PagedBatch, pool: PagedPool) -> Plan:
    """See `Ops.plan_attention`."""
    shape, heads = pool.shape, batch.heads
    real = int(batch.starts[-1])
    cos, sin = _rotation(batch, heads, shape)
    return Plan(
        cos=paddle.to_tensor(cos[:real]),
        sin=paddle.to_tensor(sin[:real]),
        turn=paddle.to_tensor(_quarter_turn(shape.head_dim)),
        store=paddle.to_tensor(pool.store_index(batch.slots)),
        groups=tuple(_group(span, batch, pool) for span in spans(batch, shape)),
        padding=batch.rows - real,
    )


def paged_attention(qkv: Tensor, pool: PagedPool, layer: int, plan: Plan) -> Tensor:
    """See `Ops.paged_attention`."""
    shape = pool.shape
    if plan.padding:
        qkv = qkv[: -plan.padding]
    turned = paddle.matmul(qkv.reshape([-1, shape.head_dim]), plan.turn).reshape(qkv.shape)
    qkv = qkv * plan.cos + turned * plan.sin
    kv = 2 * shape.kv_heads * shape.head_dim
    q, new = paddle.split(qkv, [qkv.shape[1] - kv, kv], axis=1)
    pool.store(layer, plan.store, new.reshape([-1, shape.head_dim]))
    parts = [
        _attend(q[group.start : group.end], pool.gather(layer, group.index, group.sequences), group, shape)
        for group in plan.groups
    ]
    if plan.padding:
        parts.append(paddle.zeros([plan.padding, q.shape[1]], dtype=q.dtype))
    return parts[0] if len(parts) == 1 else paddle.concat(parts)


def _attend(q: Tensor, cache: Gathered, group: Group, shape: KvShape) -> Tensor:
    """Rows of a group: [sequences * rows, heads * d] -> the same shape."""
    count, channels = q.shape
    rows = count // group.sequences
    split = [group.sequences, rows, shape.kv_heads, -1, shape.head_dim]
    if rows > 1:
        q = q.reshape(split).transpose([0, 2, 3, 1, 4])
    q = q.reshape([group.sequences * shape.kv_heads, -1, shape.head_dim])
    scores = paddle.matmul(q, cache.keys, transpose_y=True)
    if cache.key_scales is not None:
        scores = scores * cache.key_scales
    weights = F.softmax(_masked(scores, group, rows), axis=-1)
    if cache.value_scales is not None:
        weights = weights * cache.value_scales
    mixed = paddle.matmul(weights, cache.values)
    if rows > 1:
        split = [group.sequences, shape.kv_heads, -1, rows, shape.head_dim]
        mixed = mixed.reshape(split).transpose([0, 3, 1, 2, 4])
    return mixed.reshape([count, channels])


def _masked(scores: Tensor, group: Group, rows: int) -> Tensor:
    if group.sequences > 1 or rows == 1:
        return scores.add_(group.mask)
    flat = scores.reshape([-1, rows, scores.shape[-1]])
    return flat.add_(group.mask).reshape(scores.shape)


def spans(batch: PagedBatch, shape: KvShape) -> Iterator[Span]:
    """Cut a batch into groups: sequences side by side with as many rows and about as many blocks."""
    heads, rows = batch.heads, np.diff(batch.starts)
    blocks = -(-(batch.pasts + rows) // shape.block_size)
    first, count = 0, len(rows)
    while first < count:
        if rows[first] > _FEW_ROWS:
            yield from _spans_of_one(first, int(rows[first]), int(batch.pasts[first]), heads, shape)
            first += 1
            continue
        last, most, total = first, 0, 0
        while last < count and rows[last] == rows[first]:
            longest, sum_ = max(most, int(blocks[last])), total + int(blocks[last])
            padded = longest * (last - first + 1)
            if last > first and not _fits(padded, padded - sum_, int(rows[first]), heads, shape):
                break
            last, most, total = last + 1, longest, sum_
        yield Span(range(first, last), 0, int(rows[first]), most)
        first = last


def _fits(padded: int, wasted: int, rows: int, heads: int, shape: KvShape) -> bool:
    tokens = padded * shape.block_size
    return (
        wasted * shape.block_size <= _WORTHLESS_PADDING
        and tokens * shape.kv_heads * shape.head_dim <= _MAX_GATHERED
        and tokens * heads * rows <= _MAX_SCORES
    )


def _spans_of_one(number: int, rows: int, past: int, heads: int, shape: KvShape) -> Iterator[Span]:
    at_once = max(1, min(_MAX_ROWS, _MAX_SCORES // (heads * (past + rows))))
    for start, end in pairwise([*range(0, rows, at_once), rows]):
        yield Span(range(number, number + 1), start, end - start, -(-(past + end) // shape.block_size))


def _group(span: Span, batch: PagedBatch, pool: PagedPool) -> Group:
    members = slice(span.sequences.start, span.sequences.stop)
    start = int(batch.starts[span.sequences.start]) + span.skip
    count = len(span.sequences)
    return Group(
        start=start,
        end=start + count * span.rows,
        sequences=count,
        index=paddle.to_tensor(pool.gather_index(batch.tables[members, : span.blocks])),
        mask=paddle.to_tensor(_mask(span, batch.pasts[members], pool.shape, batch.heads)),
    )


def _mask(span: Span, pasts: NDArray[np.int32], shape: KvShape, heads: int) -> NDArray[np.float32]:
    seen = pasts[:, None] + np.arange(span.skip, span.skip + span.rows)
    hidden = np.arange(span.blocks * shape.block_size) > seen[:, :, None]
    mask: NDArray[np.float32] = np.where(hidden, np.float32(-math.inf), np.float32(0))
    if len(pasts) == 1 and span.rows > 1:
        return mask.reshape(mask.shape[1:])
    # Spelled out for every head: an addition that broadcasts in the middle takes forty times as long.
    spread = np.broadcast_to(mask[:, None], (len(pasts), heads, *mask.shape[1:]))
    return np.ascontiguousarray(spread).reshape(len(pasts) * shape.kv_heads, -1, mask.shape[-1])


def _rotation(batch: PagedBatch, heads: int, shape: KvShape) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin for every channel of the product."""
    scale = np.float32(shape.head_dim**-0.5)
    cos = np.concatenate([batch.cos, batch.cos], axis=-1)
    sin = np.concatenate([batch.sin, batch.sin], axis=-1)
    ones = np.ones((len(cos), shape.kv_heads * shape.head_dim), np.float32)
    return (
        np.concatenate([np.tile(cos * scale, heads), np.tile(cos, shape.kv_heads), ones], axis=-1),
        np.concatenate([np.tile(sin * scale, heads), np.tile(sin, shape.kv_heads), 0 * ones], axis=-1),
    )


def _quarter_turn(size: int) -> NDArray[np.float32]:
    half = size // 2
    turn = np.zeros((size, size), np.float32)
    turn[:half, half:] = np.eye(half)
    turn[half:, :half] = -np.eye(half)
    return turn
