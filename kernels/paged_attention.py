"""Softmax attention over block tables in plain Paddle operators."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F
from numpy.typing import NDArray

from kernels.host import on_device
from kernels.kv_pool import Gathered, PagedPool
from kernels.ops import Tensor
from kernels.paged import KvShape, PagedBatch
from kernels.paged_groups import Span, spans


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Sequences computed together, `rows` rows of each.

    Attributes:
        start, end: their rows of the batch.
        index: see `PagedPool.gather`.
        mask: what to add to the scores, in the shape that `attend` wants.
    """

    start: int
    end: int
    sequences: int
    rows: int
    index: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What the layers of one pass share.

    Attributes:
        cos, sin: float32 [rows, channels of the product]; 1 and 0 for values, scaled for queries.
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


class PagedAttention:
    """The form for speed: what a group computes at once is as large as it comes."""

    def plan(self, batch: PagedBatch, pool: PagedPool) -> Plan:
        """See `Ops.plan_attention`."""
        real = int(batch.starts[-1])
        cos, sin = _rotation(batch, pool.shape)
        return Plan(
            cos=on_device(cos[:real], pool.device),
            sin=on_device(sin[:real], pool.device),
            turn=on_device(_quarter_turn(pool.shape.head_dim), pool.device),
            store=on_device(pool.store_index(batch.slots), pool.device),
            groups=tuple(self.group(span, batch.heads, pool) for span in spans(batch, pool.shape)),
            padding=batch.rows - real,
        )

    def run(self, qkv: Tensor, pool: PagedPool, layer: int, plan: Plan) -> Tensor:
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
            self.attend(
                q[group.start : group.end], pool.gather(layer, group.index, group.sequences), group, shape
            )
            for group in plan.groups
        ]
        if plan.padding:
            parts.append(paddle.zeros([plan.padding, q.shape[1]], dtype=q.dtype))
        return parts[0] if len(parts) == 1 else paddle.concat(parts)

    def group(self, span: Span, heads: int, pool: PagedPool) -> Group:
        """What `attend` needs of a span.

        The mask is [rows, tokens] for many rows of one sequence; otherwise it is spelled out for every head,
        [sequences * kv_heads, heads / kv_heads * rows, tokens]: an addition that broadcasts in the middle
        takes forty times as long.
        """
        mask = span.mask(span.tables.shape[1] * pool.shape.block_size)
        if span.sequences == 1 and span.rows > 1:
            mask = mask[0]
        else:
            spread = np.broadcast_to(mask[:, None], (span.sequences, heads, *mask.shape[1:]))
            mask = np.ascontiguousarray(spread).reshape(
                span.sequences * pool.shape.kv_heads, -1, mask.shape[-1]
            )
        index = on_device(pool.gather_index(span.tables), pool.device)
        return Group(span.start, span.end, span.sequences, span.rows, index, on_device(mask, pool.device))

    def attend(self, q: Tensor, cache: Gathered, group: Group, shape: KvShape) -> Tensor:
        """Rows of a group against its keys and values: [sequences * rows, heads * d] -> the same shape."""
        count, channels = q.shape
        if group.rows > 1:
            split = [group.sequences, group.rows, shape.kv_heads, -1, shape.head_dim]
            q = q.reshape(split).transpose([0, 2, 3, 1, 4])
        q = q.reshape([group.sequences * shape.kv_heads, -1, shape.head_dim])
        scores = paddle.matmul(q, cache.keys, transpose_y=True)
        if cache.key_scales is not None:
            scores = scores * cache.key_scales
        weights = F.softmax(_masked(scores, group), axis=-1)
        if cache.value_scales is not None:
            weights = weights * cache.value_scales
        mixed = paddle.matmul(weights, cache.values)
        if group.rows > 1:
            split = [group.sequences, shape.kv_heads, -1, group.rows, shape.head_dim]
            mixed = mixed.reshape(split).transpose([0, 3, 1, 2, 4])
        return mixed.reshape([count, channels])


def _masked(scores: Tensor, group: Group) -> Tensor:
    if group.mask.shape == scores.shape:
        return scores.add_(group.mask)
    return scores.reshape([-1, *group.mask.shape]).add_(group.mask).reshape(scores.shape)


def _rotation(batch: PagedBatch, shape: KvShape) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """cos and sin for every channel of the product: queries (with the scale of the scores), keys, values."""
    heads, size = batch.heads, shape.head_dim
    tables = np.empty((2, batch.rows, heads + 2 * shape.kv_heads, 2, size // 2), np.float32)
    tables[0] = batch.cos[:, None, None]
    tables[1] = batch.sin[:, None, None]
    tables[:, :, :heads] *= np.float32(size**-0.5)
    tables[0, :, heads + shape.kv_heads :] = 1
    tables[1, :, heads + shape.kv_heads :] = 0
    cos, sin = tables.reshape(2, batch.rows, -1)
    return cos, sin


def _quarter_turn(size: int) -> NDArray[np.float32]:
    half = size // 2
    turn = np.zeros((size, size), np.float32)
    turn[:half, half:] = np.eye(half)
    turn[half:, :half] = -np.eye(half)
    return turn
