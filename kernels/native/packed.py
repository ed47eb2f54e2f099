"""Matrices in the layout of the native products; source/packed.h describes it."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from internvl.checkpoint import weight_format
from internvl.checkpoint.weight_format import Codes, Weight, WeightFormat, flat_shape
from kernels.host import shared
from kernels.native.library import Library
from kernels.native.pages import large_pages
from kernels.ops import Matrix, Tensor

# `Packing` of source/kernels.h; of each, lines that lie together and the inputs they hold.
_PACKINGS = {WeightFormat.BFLOAT16: 0, WeightFormat.INT8: 1, WeightFormat.W8: 1, WeightFormat.W4: 2}
_LINES = ((1, 2), (7, 32), (1, 8))
_WORD = 4

# As in source/packed.h: outputs of a panel.
_PANEL = 64

# What decides which bytes a matrix becomes.
_HERE = Path(__file__).parent
_DECIDING = (Path(__file__), Path(weight_format.__file__), *sorted((_HERE / "source").glob("*")))


@dataclass(frozen=True, slots=True, eq=False)
class PackedMatrix:
    """A matrix [out, in] as panels: the only copy of it.

    Attributes:
        panels: uint8, in the memory of `memory`.
        group: inputs that share a scale.
        packing: as the operators count them.
    """

    shape: tuple[int, int]
    panels: Tensor
    memory: NDArray[np.uint8]
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


@dataclass(frozen=True, slots=True)
class PackedBytes:
    """Implements `MatrixBytes` for one weight format.

    Attributes:
        level: instruction set. Levels share a layout today, but may not always.
    """

    form: WeightFormat
    level: str

    @property
    def layout(self) -> str:
        return f"{self.form.value} {self.level} {_code_digest()}"

    def size(self, shape: tuple[int, int], table: bool) -> int:
        return 2 * shape[0] * shape[1] if table else _panel_bytes(shape, self.form)

    def room(self, size: int) -> NDArray[np.uint8]:
        return large_pages(size)

    def restored(self, shape: tuple[int, int], table: bool, contents: NDArray[np.uint8]) -> Matrix:
        return (
            RowTable(contents.view(np.uint16).reshape(shape))
            if table
            else _packed(shape, self.form, contents)
        )

    def contents(self, matrix: Matrix) -> NDArray[np.uint8]:
        if isinstance(matrix, RowTable):
            return matrix.bits.reshape(-1).view(np.uint8)
        if not isinstance(matrix, PackedMatrix):
            raise TypeError(f"weight packed by another implementation: {type(matrix).__name__}")
        return matrix.memory


def pack(weight: Weight, form: WeightFormat, library: Library) -> PackedMatrix:
    """Pack a matrix [out, in], on all threads of the pool.

    Args:
        weight: numbers of any float type, or codes of this very format.
    """
    shape = flat_shape(weight.shape)
    packed = _packed(shape, form, large_pages(_panel_bytes(shape, form)))
    if isinstance(weight, Codes):
        if weight.form is not form:
            raise TypeError(f"codes of {weight.form.value} where {form.value} is wanted")
        library.pack_codes(weight, packed.group, packed.packing, packed.memory)
        return packed
    short = weight.dtype == ml_dtypes.bfloat16
    source = np.ascontiguousarray(weight if short else weight.astype(np.float32)).reshape(shape)
    library.pack(source, short, packed.group, packed.packing, packed.memory)
    return packed


def _packed(shape: tuple[int, int], form: WeightFormat, panels: NDArray[np.uint8]) -> PackedMatrix:
    return PackedMatrix(shape, shared(panels), panels, form.group(shape[1]), _PACKINGS[form])


def _panel_bytes(shape: tuple[int, int], form: WeightFormat) -> int:
    outputs, inputs = shape
    group = form.group(inputs)
    lines, held = _LINES[_PACKINGS[form]]
    block = group // held * lines + (form.levels is not None)
    return -(-outputs // _PANEL) * -(-inputs // group) * block * _PANEL * _WORD


def table(weight: np.ndarray) -> RowTable:
    """Copy a matrix of any float type."""
    return RowTable(np.array(weight, dtype=ml_dtypes.bfloat16).view(np.uint16))


@functools.cache
def _code_digest() -> str:
    """A version of the layout that nobody can forget to raise."""
    digest = hashlib.sha256()
    for file in _DECIDING:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
