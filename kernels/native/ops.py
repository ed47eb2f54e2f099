"""`Ops` on CPU with native operators where they are faster; everything else is `PaddleOps`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from internvl.checkpoint.weight_format import Weight, WeightFormat
from kernels.host import shared
from kernels.native.library import Library
from kernels.native.packed import PackedBytes, PackedMatrix, RowTable, pack, table
from kernels.native.pool import NativePool, serves
from kernels.ops import Activation, Linear, Matrix, MatrixBytes, Norm, Tensor
from kernels.paddle_ops import PaddleOps
from kernels.paged import AttentionPlan, KvPool, KvShape, PagedBatch
from kernels.runtime import Device


@dataclass(frozen=True, slots=True, eq=False)
class NativePlan:
    """The tensors of `PagedBatch` that the operator reads, in its order, and the heads."""

    tensors: tuple[Tensor, ...]
    heads: int


class NativeOps(PaddleOps):
    """See `kernels.ops.Ops`. float32 on CPU. The native operators are batch-invariant in any case.

    With float32 weights, products stay Paddle's.
    """

    def __init__(self, device: Device, library: Library, batch_invariant: bool = False) -> None:
        super().__init__(device, batch_invariant)
        self._library = library
        self._packs = device.weights is not WeightFormat.FLOAT32
        self._none = self.tensor(np.empty(0))  # an operator's input that is not there
        self._no_norm = Norm(self._none, None, 0.0)

    @property
    def matrix_bytes(self) -> MatrixBytes | None:
        return PackedBytes(self.device.weights, self._library.level) if self._packs else None

    def pack(self, weight: Weight) -> Matrix:
        return pack(weight, self.device.weights, self._library) if self._packs else super().pack(weight)

    def pack_table(self, weight: np.ndarray, linear: bool) -> Matrix:
        return table(weight) if self._packs and not linear else super().pack_table(weight, linear)

    def linear(
        self,
        x: Tensor,
        layer: Linear,
        *,
        before: Norm | Activation | None = None,
        scale: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        weight = layer.weight
        if not isinstance(weight, PackedMatrix):
            return super().linear(x, layer, before=before, scale=scale, residual=residual)
        norm = before if isinstance(before, Norm) else self._no_norm
        around = (layer.bias, norm.weight, norm.bias, scale, residual)
        return self._library.call(
            "internvl_linear",
            *(x, weight.panels, *(self._none if tensor is None else tensor for tensor in around)),
            *(weight.shape[0], weight.group, weight.packing, _number_of(before), norm.eps),
        )

    def embedding(self, ids: np.ndarray, table: Matrix) -> Tensor:
        return shared(table.rows(ids)) if isinstance(table, RowTable) else super().embedding(ids, table)

    def norm(self, x: Tensor, norm: Norm) -> Tensor:
        if norm.bias is None:
            return self._library.call("internvl_rms_norm", x, norm.weight, norm.eps)
        return self._library.call("internvl_layer_norm", x, norm.weight, norm.bias, norm.eps)

    def activate(self, x: Tensor, activation: Activation) -> Tensor:
        return self._library.call(f"internvl_{activation.value}", x)

    def full_attention(self, qkv: Tensor, heads: int) -> Tensor:
        if not serves(qkv.shape[-1] // (3 * heads)):
            return super().full_attention(qkv, heads)
        return self._library.call("internvl_full_attention", qkv, heads)

    def open_pool(self, shape: KvShape) -> KvPool:
        return NativePool(shape) if serves(shape.head_dim) else super().open_pool(shape)

    def plan_attention(self, batch: PagedBatch, pool: KvPool) -> AttentionPlan:
        if not isinstance(pool, NativePool):
            return super().plan_attention(batch, pool)
        arrays = (batch.starts, batch.pasts, batch.tables, batch.cos, batch.sin)
        return NativePlan(tuple(map(shared, arrays)), batch.heads)

    def paged_attention(self, qkv: Tensor, pool: KvPool, layer: int, plan: AttentionPlan) -> Tensor:
        if not isinstance(pool, NativePool):
            return super().paged_attention(qkv, pool, layer, plan)
        if not isinstance(plan, NativePlan):
            raise TypeError(f"attention planned by another implementation: {type(plan).__name__}")
        shape = pool.shape
        return self._library.call(
            "internvl_paged_attention",
            *(qkv, pool.layer(layer), *plan.tensors),
            *(plan.heads, shape.kv_heads, shape.head_dim, shape.block_size, pool.stored),
        )


def _number_of(before: Norm | Activation | None) -> int:
    """`Before` of source/kernels.h."""
    if isinstance(before, Norm):
        return 1 if before.bias is None else 2
    return {None: 0, Activation.GELU: 3, Activation.SWIGLU: 4}[before]
