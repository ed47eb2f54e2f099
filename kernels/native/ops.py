"""`Ops` on CPU with native operators where they are faster; everything else is `PaddleOps`."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.host import shared
from kernels.native.library import Library
from kernels.native.pool import NativePool, serves
from kernels.ops import Norm, Tensor
from kernels.paddle_ops import PaddleOps
from kernels.paged import AttentionPlan, KvPool, KvShape, PagedBatch
from kernels.runtime import Device


@dataclass(frozen=True, slots=True, eq=False)
class NativePlan:
    """The tensors of `PagedBatch` that the operator reads, in its order, and the heads."""

    tensors: tuple[Tensor, ...]
    heads: int


class NativeOps(PaddleOps):
    """See `kernels.ops.Ops`. float32 on CPU. The native operators are batch-invariant in any case."""

    def __init__(self, device: Device, library: Library, batch_invariant: bool = False) -> None:
        super().__init__(device, batch_invariant)
        self._library = library

    def norm(self, x: Tensor, norm: Norm) -> Tensor:
        if norm.bias is not None:
            return super().norm(x, norm)
        return self._library.call("internvl_rms_norm", x, norm.weight, norm.eps)

    def swiglu(self, gate_up: Tensor) -> Tensor:
        return self._library.call("internvl_swiglu", gate_up)

    def open_pool(self, shape: KvShape) -> KvPool:
        return NativePool(shape) if serves(shape) else super().open_pool(shape)

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
