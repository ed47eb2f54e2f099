"""How the matrices of a model are kept, in memory and in files, and what of their numbers is left there."""

from __future__ import annotations

import math
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

# Outputs that are quantised at a time: bounds what that takes beside the matrix.
_OUTPUTS = 256

# Largest group of inputs that share a scale where the format leaves that to us: keeps a block in the cache.
_LONGEST = 1024


class WeightFormat(Enum):
    """Activations stay float32 between the operators.

    A product takes them as they are, or rounded to bfloat16 where the processor multiplies that; with codes
    of 8 or 4 bits it rounds them to 8 bits first, one scale for each token and group.
    """

    FLOAT32 = "fp32"
    BFLOAT16 = "bf16"
    INT8 = "int8"
    """Codes of 7 bits, multiplied as bytes; up to 1,024 inputs of an output share a scale."""
    W8 = "w8"
    """The same codes in groups of 128 inputs; of 32 in small matrices."""
    W4 = "w4"
    """Codes of 4 bits in the same groups."""

    @property
    def levels(self) -> int | None:
        """Codes are 0 to this; None where numbers are kept.

        Half the range of a byte: two codes of up to 127 times inputs of up to 127 can be added in 16 bits, so
        that processors without VNNI multiply 32 numbers at a time, not 16 (onnxruntime and FBGEMM reduce the
        range for the same reason), and a code takes 7 bits of memory.
        """
        return {WeightFormat.INT8: 127, WeightFormat.W8: 127, WeightFormat.W4: 15}.get(self)

    def group(self, inputs: int) -> int:
        """Inputs of a group in a matrix with so many of them, a multiple of 32."""
        if self in (WeightFormat.W8, WeightFormat.W4):
            return 128 if inputs >= _LONGEST else 32
        longest = _LONGEST // 2 if self is WeightFormat.BFLOAT16 else _LONGEST
        groups = -(-inputs // longest)
        return -(-inputs // groups // 32) * 32


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """A matrix as codes: every weight is low + scale * code of its output and group of inputs.

    Attributes:
        shape: of the weights: the outputs, then what together are the inputs.
        codes: uint8 [out, groups, group]; of 4 bits two to a byte, the first in the lower half. The last
            group is filled up.
        scales: bfloat16 [out, groups].
        lows: likewise.
    """

    form: WeightFormat
    shape: tuple[int, ...]
    codes: NDArray[np.uint8]
    scales: NDArray[Any]
    lows: NDArray[Any]

    def numbers(self) -> NDArray[np.float32]:
        """The weights, [out, in]."""
        codes = self.codes
        if self.form is WeightFormat.W4:
            codes = np.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:2], -1)
        scales, lows = (each.astype(np.float32)[:, :, None] for each in (self.scales, self.lows))
        outputs, inputs = flat_shape(self.shape)
        weights = lows + scales * codes
        return np.ascontiguousarray(weights.reshape(outputs, -1)[:, :inputs])


Weight: TypeAlias = NDArray[Any] | Codes
"""A tensor as a checkpoint holds it."""


def flat_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Outputs and inputs."""
    return shape[0], math.prod(shape[1:])


def quantised(weight: NDArray[Any], form: WeightFormat, executor: Executor | None = None) -> Codes:
    """Choose the codes of a matrix [out, ...] of any float type, exactly as the native operators do.

    Args:
        form: one with `levels`.
        executor: has threads to share the work among.
    """
    flat = weight.reshape(flat_shape(weight.shape))
    pieces = [flat[first : first + _OUTPUTS] for first in range(0, len(flat), _OUTPUTS)]
    run = map if executor is None else executor.map
    codes, scales, lows = zip(*run(lambda piece: _quantised(piece, form), pieces), strict=True)
    return Codes(form, weight.shape, np.concatenate(codes), np.concatenate(scales), np.concatenate(lows))


def stored(weight: NDArray[Any], form: WeightFormat) -> NDArray[np.float32]:
    """The numbers [out, in] that a format keeps of a matrix, as the native operators keep them."""
    if form is WeightFormat.BFLOAT16:
        return weight.astype(_BFLOAT16).astype(np.float32)
    return weight.astype(np.float32) if form.levels is None else quantised(weight, form).numbers()


def _quantised(
    rows: NDArray[Any], form: WeightFormat
) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[Any]]:
    """Codes from the least number of a group to the greatest; scale and low are bfloat16."""
    outputs, inputs = rows.shape
    group, levels = form.group(inputs), np.float32(form.levels or 0)
    padded = np.pad(rows.astype(np.float32), ((0, 0), (0, -inputs % group)))
    blocks = padded.reshape(outputs, -1, group)
    # Adding zero makes a negative zero positive: which of them is the least depends on the order of looking.
    least, greatest = blocks.min(-1, keepdims=True) + np.float32(0), blocks.max(-1, keepdims=True)
    low = np.where(greatest > least, _beyond(least, up=False), least.astype(_BFLOAT16).astype(np.float32))
    scale = _beyond(np.maximum(greatest - low, 0) / levels, up=True)
    scale = np.where(greatest > least, scale, np.float32(0))
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    codes: NDArray[np.uint8] = np.rint(np.minimum((blocks - low) * inverse, levels)).astype(np.uint8)
    if form is WeightFormat.W4:
        codes = codes[..., ::2] + 16 * codes[..., 1::2]
    return codes, scale[..., 0].astype(_BFLOAT16), low[..., 0].astype(_BFLOAT16)


def _beyond(values: NDArray[np.float32], *, up: bool) -> NDArray[np.float32]:
    """The bfloat16 next to each value, not below it (`up`) or not above it."""
    rounded = values.astype(_BFLOAT16)
    wide = rounded.astype(np.float32)
    wrong = wide < values if up else wide > values
    away = np.nextafter(rounded, np.array(np.inf if up else -np.inf, _BFLOAT16)).astype(np.float32)
    result: NDArray[np.float32] = np.where(wrong, away, wide)
    return result
