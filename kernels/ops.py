"""The operators a model tier may use: one interface, so that another implementation can take their place.

A model is written against `Ops` and gets an implementation when it is loaded (`kernels.dispatch`). Weights
are packed by that implementation into holders it owns (`Matrix`, `Linear`), so a native one may keep them in
its own layout or type. Activations are Paddle tensors, token-major: [tokens, channels] or [tiles, tokens,
channels].
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from internvl.checkpoint.weight_format import Weight
from kernels.paged import AttentionPlan, KvPool, KvShape, PagedBatch
from kernels.runtime import Device, quiet_import

with quiet_import():
    import paddle

Tensor: TypeAlias = paddle.Tensor


class Matrix(Protocol):
    """A weight matrix [out, in] in storage its implementation chose."""

    @property
    def shape(self) -> tuple[int, int]: ...


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x W^T + b, with W packed by the implementation that will apply it."""

    weight: Matrix
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Norm:
    """Normalisation over the last axis: LayerNorm when `bias` is set, RMSNorm otherwise."""

    weight: Tensor
    bias: Tensor | None
    eps: float


class Activation(Enum):
    """What lies between the two matrices of an MLP.

    Attributes:
        GELU: x * Phi(x), the exact (erf) form.
        SWIGLU: silu(first half) * second half of the last axis: [..., 2 m] -> [..., m].
    """

    GELU = "gelu"
    SWIGLU = "swiglu"


class MatrixBytes(Protocol):
    """Packed matrices as bytes, for a file that the same implementation reads on another day."""

    @property
    def layout(self) -> str:
        """Names format and layout; bytes are to be read under the same name only."""
        ...

    def size(self, shape: tuple[int, int], table: bool) -> int:
        """Bytes of a matrix of this shape; `table` as in `Ops.pack_table`, never applied as a matrix."""
        ...

    def room(self, size: int) -> NDArray[np.uint8]:
        """Memory for so many bytes, to be filled and given to `restored`."""
        ...

    def restored(self, shape: tuple[int, int], table: bool, contents: NDArray[np.uint8]) -> Matrix:
        """The matrix that `contents` are the bytes of; takes the memory over."""
        ...

    def contents(self, matrix: Matrix) -> NDArray[np.uint8]:
        """Its bytes, without a copy."""
        ...


class Ops(Protocol):
    """Everything the two models compute. `dtype` below is the device's compute type."""

    @property
    def device(self) -> Device: ...

    @property
    def matrix_bytes(self) -> MatrixBytes | None:
        """How packed matrices become bytes; None where packing takes no longer than reading them would."""
        ...

    def pack(self, weight: Weight) -> Matrix:
        """Take over a weight matrix for `linear`, in the device's weight format; it may be freed afterwards.

        Args:
            weight: [out, ...] of any float type, where all but the first are inputs; or codes of that format.
        """
        ...

    def pack_table(self, weight: np.ndarray, linear: bool) -> Matrix:
        """The same for `embedding`, and for `linear` too if asked for."""
        ...

    def tensor(self, array: np.ndarray) -> Tensor:
        """Copy a float array to the device as `dtype`."""
        ...

    def to_numpy(self, tensor: Tensor) -> np.ndarray:
        """Copy a tensor to the host as float32."""
        ...

    def linear(
        self,
        x: Tensor,
        layer: Linear,
        *,
        before: Norm | Activation | None = None,
        scale: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """linear(before(x)) * scale + residual, of which everything but the product may be left out.

        One operator, because a new token spends a tenth of its time between operators.

        Args:
            x: [..., in], or [..., 2 in] for SWIGLU.
            before: as `norm` or `activate` does it.
            scale: [out].
            residual: [..., out].

        Returns:
            [..., out].
        """
        ...

    def embedding(self, ids: np.ndarray, table: Matrix) -> Tensor:
        """Rows of a [vocab, channels] table: int64 [n] -> [n, channels]."""
        ...

    def norm(self, x: Tensor, norm: Norm) -> Tensor:
        """LayerNorm or RMSNorm over the last axis, statistics in float32."""
        ...

    def activate(self, x: Tensor, activation: Activation) -> Tensor:
        """See `Activation`."""
        ...

    def full_attention(self, qkv: Tensor, heads: int) -> Tensor:
        """Every token sees all tokens of its tile.

        Args:
            qkv: [tiles, n, 3 * heads * d], as the product leaves it: all queries, all keys, all values.

        Returns:
            [tiles, n, heads * d].
        """
        ...

    def open_pool(self, shape: KvShape) -> KvPool:
        """Reserve a paged cache in the layout that `paged_attention` of this implementation wants."""
        ...

    def plan_attention(self, batch: PagedBatch, pool: KvPool) -> AttentionPlan:
        """Prepare what all layers of a forward pass share: indices, masks, rotation tables."""
        ...

    def paged_attention(self, qkv: Tensor, pool: KvPool, layer: int, plan: AttentionPlan) -> Tensor:
        """Rotate queries and keys, store keys and values, attend to all tokens up to each row's own.

        Channel pairs (i, i + d/2) of a head turn together. Masked tokens add nothing, whatever the cache
        holds there. Softmax in float32.

        Args:
            qkv: [rows, (heads + 2 * kv_heads) * d], as the product leaves it: all queries, all keys, all
                values. heads is a multiple of kv_heads; query head h reads key head h * kv_heads // heads.
            plan: from `plan_attention` of this pool.

        Returns:
            [rows, heads * d].
        """
        ...
