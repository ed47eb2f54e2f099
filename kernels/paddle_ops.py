"""`Ops` in plain Paddle operators: the implementation every other one is measured against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle.incubate.nn.functional import fused_rms_norm

from internvl.checkpoint.weight_format import Codes, Weight, WeightFormat, flat_shape, stored
from kernels.attention import full_attention
from kernels.host import on_device, shared
from kernels.invariant_attention import InvariantAttention
from kernels.kv_pool import PagedPool
from kernels.ops import Activation, Linear, Matrix, MatrixBytes, Norm, Tensor
from kernels.paged import AttentionPlan, KvPool, KvShape, PagedBatch
from kernels.paged_attention import PagedAttention, Plan
from kernels.runtime import Device, cpu_flags


@dataclass(frozen=True, slots=True)
class DenseMatrix:
    """Row-major [out, in] in the device's compute type."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.tensor.shape
        return rows, columns


class PaddleOps:
    """See `kernels.ops.Ops`. On GPU in bfloat16 this has never been run."""

    def __init__(self, device: Device, batch_invariant: bool = False) -> None:
        self._device = device
        # Paddle's fused operator is built for AVX-512 alone and ends the process on any other processor.
        self._fused_norm = device.kind != "cpu" or "avx512f" in cpu_flags()
        self._attention = InvariantAttention() if batch_invariant else PagedAttention()

    @property
    def device(self) -> Device:
        return self._device

    @property
    def matrix_bytes(self) -> MatrixBytes | None:
        return None

    def pack(self, weight: Weight) -> Matrix:
        if isinstance(weight, Codes):
            return DenseMatrix(self.tensor(weight.numbers()))
        weight = weight.reshape(flat_shape(weight.shape))
        if self._device.kind == "cpu" and self._device.weights is not WeightFormat.FLOAT32:
            weight = stored(weight, self._device.weights)
        return DenseMatrix(self.tensor(weight))

    def pack_table(self, weight: np.ndarray, linear: bool) -> Matrix:
        return DenseMatrix(self.tensor(weight))

    def tensor(self, array: np.ndarray) -> Tensor:
        # Paddle's own import knows no ml_dtypes.bfloat16; float32 holds every bfloat16 exactly.
        host = np.array(array, dtype=np.float32, order="C")
        if self._device.kind == "cpu":
            return shared(host)
        return on_device(host, self._device).astype(self._device.dtype)

    def to_numpy(self, tensor: Tensor) -> np.ndarray:
        array: np.ndarray = _as_float32(tensor).numpy()
        return array

    def linear(
        self,
        x: Tensor,
        layer: Linear,
        *,
        before: Norm | Activation | None = None,
        scale: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        if isinstance(before, Norm):
            x = self.norm(x, before)
        elif before is not None:
            x = self.activate(x, before)
        product = paddle.matmul(x, _dense(layer.weight), transpose_y=True)
        # Separate in-place additions: F.linear with a bias takes 1.7 times as long on CPU.
        product = product if layer.bias is None else product.add_(layer.bias)
        product = product if scale is None else product.multiply_(scale)
        return product if residual is None else product.add_(residual)

    def embedding(self, ids: np.ndarray, table: Matrix) -> Tensor:
        return F.embedding(on_device(ids, self._device), _dense(table))

    def norm(self, x: Tensor, norm: Norm) -> Tensor:
        if norm.bias is not None:
            return F.layer_norm(x, x.shape[-1], norm.weight, norm.bias, norm.eps)
        if not self._fused_norm:
            return _rms_norm(x, norm)
        normed: Tensor = fused_rms_norm(x, norm.weight, None, norm.eps, begin_norm_axis=x.ndim - 1)[0]
        return normed

    def activate(self, x: Tensor, activation: Activation) -> Tensor:
        return F.swiglu(x) if activation is Activation.SWIGLU else F.gelu(x, approximate=False)

    def full_attention(self, qkv: Tensor, heads: int) -> Tensor:
        return full_attention(qkv, heads)

    def open_pool(self, shape: KvShape) -> KvPool:
        return PagedPool(shape, self._device)

    def plan_attention(self, batch: PagedBatch, pool: KvPool) -> AttentionPlan:
        return self._attention.plan(batch, _paged(pool))

    def paged_attention(self, qkv: Tensor, pool: KvPool, layer: int, plan: AttentionPlan) -> Tensor:
        if not isinstance(plan, Plan):
            raise TypeError(f"attention planned by another implementation: {type(plan).__name__}")
        return self._attention.run(qkv, _paged(pool), layer, plan)


def _rms_norm(x: Tensor, norm: Norm) -> Tensor:
    # Not mean and rsqrt: on CPU those take six times as long (280 us for 32 rows of 192, so 47).
    mean_square = x.square().sum(-1, keepdim=True) / x.shape[-1]
    normed: Tensor = x / (mean_square + norm.eps).sqrt() * norm.weight
    return normed


def _dense(matrix: Matrix) -> Tensor:
    if not isinstance(matrix, DenseMatrix):
        raise TypeError(f"weight packed by another implementation: {type(matrix).__name__}")
    return matrix.tensor


def _paged(pool: KvPool) -> PagedPool:
    if not isinstance(pool, PagedPool):
        raise TypeError(f"cache opened by another implementation: {type(pool).__name__}")
    return pool


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == paddle.float32 else tensor.astype("float32")
