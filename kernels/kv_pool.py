"""Keys and values in blocks: the memory of the paged cache in plain Paddle operators."""

from __future__ import annotations

import mmap
from dataclasses import dataclass

import numpy as np
import paddle
from numpy.typing import NDArray

from internvl.errors import ConfigError
from kernels.host import on_device, shared
from kernels.ops import Tensor
from kernels.paged import KvDtype, KvShape
from kernels.runtime import Device

# On CPU Paddle scatters only numbers of four and eight bytes: shorter ones are moved in words of four.
_WORD = 4
_SHORT = {KvDtype.BFLOAT16: 2, KvDtype.INT8: 1}

_LARGEST_INT8 = 127


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """Keys and values of a group of sequences, ready for products.

    Attributes:
        keys, values: float32 [sequences * kv_heads, tokens, d]; with scales, whole numbers.
        key_scales, value_scales: float32 [sequences * kv_heads, 1, tokens], what they stand for; None for 1.
    """

    keys: Tensor
    values: Tensor
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None


class PagedPool:
    """See `KvPool`. Each layer is one tensor [blocks, 2 * kv_heads, block_size, d]: keys, then values.

    A head's tokens of a block lie together, so that gathering blocks needs no transposition afterwards.
    Memory starts as zeros: what is masked counts with weight zero, and 0 * NaN would not be zero.

    Raises:
        ConfigError: heads of such a size cannot be stored in this type.
    """

    def __init__(self, shape: KvShape, device: Device) -> None:
        self.device = device
        self._shape = shape
        self._stored = "int32" if shape.dtype in _SHORT else "float32"
        heads = shape.blocks * 2 * shape.kv_heads
        layers = range(shape.layers)
        words, rest = divmod(shape.head_dim * _SHORT.get(shape.dtype, _WORD), _WORD)
        if rest:
            raise ConfigError(f"kv dtype: {shape.dtype.value} cannot hold heads of {shape.head_dim} channels")
        rows = (heads * shape.block_size, words)
        # Two views of the same memory: a row for each token and head, and one for each head's whole block.
        self._tokens = [_zeros(rows, self._stored, device) for _ in layers]
        self._blocks = [layer.view([heads, -1]) for layer in self._tokens]
        quantised = shape.dtype is KvDtype.INT8
        self._scales = [_zeros((rows[0], 1), "float32", device) for _ in layers] if quantised else []
        self._block_scales = [layer.view([heads, -1]) for layer in self._scales]

    @property
    def shape(self) -> KvShape:
        return self._shape

    def copy_blocks(self, pairs: NDArray[np.int64]) -> None:
        """See `KvPool.copy_blocks`."""
        sources, targets = (on_device(pairs[:, column], self.device) for column in (0, 1))
        for layer in (*self._blocks, *self._block_scales):
            whole = layer.view([self._shape.blocks, -1])
            paddle.scatter_(whole, targets, paddle.gather(whole, sources))

    def store_index(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where `store` puts the keys, then the values of each slot: [slots * 2 * kv_heads]."""
        block, offset = np.divmod(slots, self._shape.block_size)
        heads = 2 * self._shape.kv_heads
        rows = (block[:, None] * heads + np.arange(heads)) * self._shape.block_size + offset[:, None]
        return rows.reshape(-1)

    def gather_index(self, tables: NDArray[np.int32]) -> NDArray[np.int64]:
        """What `gather` reads for block tables [sequences, blocks]: [2 * sequences * kv_heads * blocks]."""
        heads = np.arange(2 * self._shape.kv_heads, dtype=np.int64).reshape(2, 1, -1, 1)
        return (tables[:, None, :] * (2 * self._shape.kv_heads) + heads).reshape(-1)

    def store(self, layer: int, index: Tensor, heads: Tensor) -> None:
        """Write keys and values in place: float32 [slots * 2 * kv_heads, d], in the order of the index."""
        if self._shape.dtype is KvDtype.BFLOAT16:
            heads = heads.astype("bfloat16")
        if self._shape.dtype is KvDtype.INT8:
            scales = (heads.abs().amax(-1, keepdim=True) / _LARGEST_INT8).clip(min=1e-30)
            paddle.scatter_(self._scales[layer], index, scales)
            heads = (heads / scales).round().astype("int8")
        paddle.scatter_(self._tokens[layer], index, heads.view(self._stored))

    def gather(self, layer: int, index: Tensor, sequences: int) -> Gathered:
        """Copy the blocks of the index together."""
        both = paddle.gather(self._blocks[layer], index)
        if self._shape.dtype is KvDtype.BFLOAT16:
            both = (both.view("int16").astype("int32") * (1 << 16)).view("float32")
        if self._shape.dtype is KvDtype.INT8:
            both = both.view("int8").astype("float32")
        heads = sequences * self._shape.kv_heads
        both = both.view([2 * heads, -1, self._shape.head_dim])
        if self._shape.dtype is not KvDtype.INT8:
            return Gathered(both[:heads], both[heads:])
        scales = paddle.gather(self._block_scales[layer], index).view([2 * heads, 1, -1])
        return Gathered(both[:heads], both[heads:], scales[:heads], scales[heads:])


def _zeros(shape: tuple[int, int], dtype: str, device: Device) -> Tensor:
    if device.kind != "cpu":
        return paddle.zeros(shape, dtype=dtype)
    # Anonymous memory reads as zero and costs nothing until it is written. Huge pages, because a pool is
    # read in small pieces from all over.
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return shared(np.frombuffer(memory, dtype=dtype).reshape(shape))
