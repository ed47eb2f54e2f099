"""What paged attention is told: the shape of the cache, and which rows of a step belong where."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray


class KvDtype(Enum):
    """How keys and values are stored. Arithmetic on them is float32 in any case."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    """Symmetric, with one float32 scale per token and head, for keys and for values."""


# Bytes of one number, and of what comes with every head of a token.
_WIDTHS = {KvDtype.FLOAT32: (4, 0), KvDtype.BFLOAT16: (2, 0), KvDtype.INT8: (1, 4)}


@dataclass(frozen=True, slots=True)
class KvShape:
    """A cache of `blocks` blocks, each with room for `block_size` tokens in all layers."""

    layers: int
    blocks: int
    block_size: int
    kv_heads: int
    head_dim: int
    dtype: KvDtype

    @property
    def block_bytes(self) -> int:
        """Memory of one block: keys and values of all layers, with their scales."""
        number, scale = _WIDTHS[self.dtype]
        head = self.head_dim * number + scale
        return 2 * self.layers * self.block_size * self.kv_heads * head


class KvPool(Protocol):
    """The memory behind the block tables. Which block belongs to whom is the scheduler's business."""

    @property
    def shape(self) -> KvShape: ...

    def copy_blocks(self, pairs: NDArray[np.int64]) -> None:
        """Copy whole blocks, all layers: [n, 2] of (source, target); no target is a source too."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class PagedBatch:
    """The rows of one forward pass: consecutive tokens of some sequences, each with its past in blocks.

    Rows behind `starts[-1]` are padding: nothing is written for them, and their attention is zero.

    Attributes:
        starts: int32 [sequences + 1]; rows `starts[i]` to `starts[i + 1] - 1` are those of sequence i.
        pasts: int32 [sequences]; tokens in the cache before its first row here. Row j of sequence i is its
            token `pasts[i] + j` and sees all tokens up to itself.
        tables: int32 [sequences, most blocks]; token t lies in block `tables[i, t // block_size]`. Padded
            with 0, which is a block like any other.
        slots: int64 [starts[-1]]; where each row's key and value go: block * block_size + offset.
        cos, sin: float32 [rows, head_dim / 2], of each row's position.
        rows: rows of the pass, padding included.
        heads: query heads of the model; the pool knows the others.
    """

    starts: NDArray[np.int32]
    pasts: NDArray[np.int32]
    tables: NDArray[np.int32]
    slots: NDArray[np.int64]
    cos: NDArray[np.float32]
    sin: NDArray[np.float32]
    rows: int
    heads: int


AttentionPlan: TypeAlias = object
"""What an implementation derived from a `PagedBatch` for itself, once for all layers."""
