"""How the matrices of a model are kept in memory, and what of their numbers is left there."""

from __future__ import annotations

from enum import Enum

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

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
    """One code of 8 bits; up to 1,024 inputs of an output share a scale: the fastest with many tokens."""
    W8 = "w8"
    """8 bits in groups of 128 inputs."""
    W4 = "w4"
    """4 bits in groups of 128 inputs; of 32 in small matrices."""

    @property
    def levels(self) -> int | None:
        """Codes are 0 to this; None where numbers are kept."""
        return {WeightFormat.INT8: 255, WeightFormat.W8: 255, WeightFormat.W4: 15}.get(self)

    def group(self, inputs: int) -> int:
        """Inputs of a group in a matrix with so many of them, a multiple of 32."""
        if self in (WeightFormat.W8, WeightFormat.W4):
            return 128 if inputs >= _LONGEST else 32
        longest = _LONGEST // 2 if self is WeightFormat.BFLOAT16 else _LONGEST
        groups = -(-inputs // longest)
        return -(-inputs // groups // 32) * 32


def stored(weight: np.ndarray, form: WeightFormat) -> NDArray[np.float32]:
    """The numbers [out, in] that a format keeps of a matrix, as the native operators keep them."""
    numbers = weight.astype(np.float32)
    if form is WeightFormat.BFLOAT16:
        return numbers.astype(_BFLOAT16).astype(np.float32)
    if form.levels is None:
        return numbers
    outputs, inputs = numbers.shape
    group = form.group(inputs)
    padded = np.pad(numbers, ((0, 0), (0, -inputs % group)))
    blocks = _quantised(padded.reshape(outputs, -1, group), form.levels)
    return np.ascontiguousarray(blocks.reshape(outputs, -1)[:, :inputs])


def _quantised(blocks: NDArray[np.float32], levels: int) -> NDArray[np.float32]:
    """Codes from the least number of a group to the greatest; scale and low are bfloat16."""
    least, greatest = blocks.min(-1, keepdims=True), blocks.max(-1, keepdims=True)
    low = np.where(greatest > least, _beyond(least, up=False), least.astype(_BFLOAT16).astype(np.float32))
    scale = _beyond(np.maximum(greatest - low, 0) / np.float32(levels), up=True)
    scale = np.where(greatest > least, scale, np.float32(0))
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    codes = np.floor(np.minimum((blocks - low) * inverse + np.float32(0.5), np.float32(levels)))
    result: NDArray[np.float32] = low + scale * codes
    return result


def _beyond(values: NDArray[np.float32], *, up: bool) -> NDArray[np.float32]:
    """The bfloat16 next to each value, not below it (`up`) or not above it."""
    rounded = values.astype(_BFLOAT16)
    wide = rounded.astype(np.float32)
    wrong = wide < values if up else wide > values
    away = np.nextafter(rounded, np.array(np.inf if up else -np.inf, _BFLOAT16)).astype(np.float32)
    result: NDArray[np.float32] = np.where(wrong, away, wide)
    return result
