"""Matrices in the layout of the native products; source/packed.h describes it."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from kernels.host import shared
from kernels.native.library import Library
from kernels.native.pages import large_pages
from kernels.ops import Tensor
from kernels.weight_format import WeightFormat

# `Packing` of source/kernels.h, and the inputs in the four bytes of a word.
_PACKINGS = {WeightFormat.BFLOAT16: 0, WeightFormat.INT8: 1, WeightFormat.W8: 1, WeightFormat.W4: 2}
_WORD_INPUTS = (2, 4, 8)
_WORD = 4

# As in source/packed.h: outputs of a panel.
_PANEL = 64


@dataclass(frozen=True, slots=True, eq=False)
class PackedMatrix:
    """A matrix [out, in] as panels: the only copy of it.

    Attributes:
        panels: uint8.
        group: inputs that share a scale.
        packing: as the operators count them.
    """

    shape: tuple[int, int]
    panels: Tensor
    group: int
    packing: int


@dataclass(frozen=True, slots=True, eq=False)
class RowTable:
    """A matrix whose rows are looked up, as the bits of bfloat16: uint16 [rows, columns]."""

    bits: NDArray[np.uint16]

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.bits.shape
        return rows, columns

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [n, columns]."""
        return (self.bits[ids].astype(np.uint32) << 16).view(np.float32)


def packing_of(form: WeightFormat) -> int:
    """`Packing` of source/kernels.h for a format of packed matrices."""
    return _PACKINGS[form]


def pack(weight: np.ndarray, form: WeightFormat, library: Library) -> PackedMatrix:
    """Pack a matrix [out, in] of any float type, on all threads of the pool."""
    outputs, inputs = weight.shape
    group, packing = form.group(inputs), _PACKINGS[form]
    block = group // _WORD_INPUTS[packing] + (form.levels is not None)
    panels = large_pages(-(-outputs // _PANEL) * -(-inputs // group) * block * _PANEL * _WORD)
    short = weight.dtype == ml_dtypes.bfloat16
    source = np.ascontiguousarray(weight if short else weight.astype(np.float32))
    library.pack(source, short, group, packing, panels)
    return PackedMatrix((outputs, inputs), shared(panels), group, packing)


def table(weight: np.ndarray) -> RowTable:
    """Copy a matrix of any float type."""
    return RowTable(np.array(weight, dtype=ml_dtypes.bfloat16).view(np.uint16))
