"""The paged cache in the layout of the native operators; source/pool.h describes it."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

from kernels.host import shared
from kernels.ops import Tensor
from kernels.paged import KvDtype, KvShape

# `Stored` of source/kernels.h.
_STORED = {KvDtype.FLOAT32: 0, KvDtype.BFLOAT16: 1, KvDtype.INT8: 2}
_WIDTHS = {KvDtype.FLOAT32: 4, KvDtype.BFLOAT16: 2, KvDtype.INT8: 1}

# As in source/vector.h and source/pool.h: numbers of a vector, tokens that lie together, vectors of a value.
_LANES = 16
_TOKENS = 8
_CHUNKS = (1, 2, 4, 6, 8, 16)


class NativePool:
    """See `KvPool`. Each layer is one tensor of bytes, [blocks, kv_heads * bytes of a head's block]."""

    def __init__(self, shape: KvShape) -> None:
        self._shape = shape
        self._layers = [_huge_pages(shape.blocks, _block_bytes(shape)) for _ in range(shape.layers)]
        self._tensors = [shared(layer) for layer in self._layers]

    @property
    def shape(self) -> KvShape:
        return self._shape

    @property
    def stored(self) -> int:
        """The type of its numbers, as the operators count them."""
        return _STORED[self._shape.dtype]

    def layer(self, index: int) -> Tensor:
        return self._tensors[index]

    def copy_blocks(self, pairs: NDArray[np.int64]) -> None:
        """See `KvPool.copy_blocks`."""
        sources, targets = pairs.T
        for layer in self._layers:
            layer[targets] = layer[sources]


def serves(head_dim: int) -> bool:
    """Whether the operators take heads of this size."""
    return head_dim % 8 == 0 and head_dim <= _LANES * _CHUNKS[-1]


def _block_bytes(shape: KvShape) -> int:
    """Bytes of one block in one layer: `bytes_of` of source/pool.h for each head and eight tokens."""
    size = shape.head_dim
    padded = _LANES * next(chunks for chunks in _CHUNKS if size <= _LANES * chunks)
    scales = 2 * _TOKENS * 4 if shape.dtype is KvDtype.INT8 else 0
    eight = _TOKENS * (size + padded) * _WIDTHS[shape.dtype] + scales
    return shape.kv_heads * -(-shape.block_size // _TOKENS) * eight


def _huge_pages(blocks: int, block_bytes: int) -> NDArray[np.uint8]:
    """Memory that costs nothing until it is written, in large pages where the machine has them."""
    memory = mmap.mmap(-1, blocks * block_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype=np.uint8).reshape(blocks, block_bytes)
