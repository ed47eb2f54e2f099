"""Arrays between numpy and the wire."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from internvl.errors import InvalidField
from internvl.v1 import tensor_pb2

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
INT8 = np.dtype(np.int8)

_INT8_MAX = 127

DTYPES: Mapping[tensor_pb2.DataType.ValueType, np.dtype[Any]] = {
    tensor_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    tensor_pb2.DATA_TYPE_BFLOAT16: BFLOAT16,
    tensor_pb2.DATA_TYPE_INT8: INT8,
}
"""The numpy type of every element type of the contract."""


@dataclass(frozen=True, slots=True)
class Quantised:
    """An array as 8-bit integers with one scale a row.

    Attributes:
        values: [..., n] int8, each from -127 to 127.
        scales: [rows] float32, 0 or above.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.scales.nbytes


def convert(array: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any] | Quantised:
    """Copy a float32 array into one of `DTYPES`, rounded to nearest, ties to even.

    Rows become int8 by their largest magnitude: no value is off by more than half of 1/127 of that.
    """
    return quantise(array) if dtype == INT8 else array.astype(dtype)


def quantise(array: NDArray[np.float32]) -> Quantised:
    """Round the rows along the last axis to 255 levels each."""
    scales = np.abs(array).max(axis=-1, keepdims=True) / np.float32(_INT8_MAX)
    steps = np.divide(array, scales, out=np.zeros_like(array), where=scales > 0)
    return Quantised(np.rint(steps).astype(np.int8), scales.reshape(-1))


def to_proto(array: NDArray[Any] | Quantised) -> tensor_pb2.Tensor:
    """Copy a float32, bfloat16 or quantised array of any shape into a message.

    Raises:
        TypeError: the array has another element type; that is a mistake in this program, not in a request.
    """
    if isinstance(array, Quantised):
        return tensor_pb2.Tensor(
            dtype=tensor_pb2.DATA_TYPE_INT8,
            shape=array.values.shape,
            data=array.values.tobytes(),
            scales=array.scales.tolist(),
        )
    for data_type, dtype in DTYPES.items():
        if array.dtype == dtype != INT8:
            return tensor_pb2.Tensor(dtype=data_type, shape=array.shape, data=array.tobytes())
    raise TypeError(f"no wire type for numpy's {array.dtype}")


def from_proto(tensor: tensor_pb2.Tensor, field: str) -> NDArray[Any]:
    """Read a message: float32 and bfloat16 as a read-only view without a copy, int8 as float32 times scales.

    Args:
        tensor: what came over the wire; nothing about it is trusted.
        field: its path in the request, for error messages.

    Raises:
        InvalidField: unknown element type, an axis below 1, a length that does not fit the shape, or scales
            that are missing, surplus, negative or not finite.
    """
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None:
        known = ", ".join(tensor_pb2.DataType.Name(data_type) for data_type in DTYPES)
        raise InvalidField(f"{field}.dtype", f"must be one of {known}")
    shape = tuple(tensor.shape)
    if not shape or min(shape) < 1:
        raise InvalidField(f"{field}.shape", "needs at least one axis, each at least 1")
    expected = math.prod(shape) * dtype.itemsize
    if len(tensor.data) != expected:
        raise InvalidField(
            f"{field}.data", f"shape and dtype need {expected} bytes, found {len(tensor.data)}"
        )
    values = np.frombuffer(tensor.data, dtype=dtype).reshape(shape)
    rows = math.prod(shape[:-1]) if dtype == INT8 else 0
    if len(tensor.scales) != rows:
        raise InvalidField(f"{field}.scales", f"must be {rows}, found {len(tensor.scales)}")
    if not rows:
        return values
    with np.errstate(
        over="ignore"
    ):  # what becomes infinite is for the caller to refuse, as in the other types
        return values * _scales(tensor, shape, field)


def _scales(tensor: tensor_pb2.Tensor, shape: tuple[int, ...], field: str) -> NDArray[np.float32]:
    """[..., 1], to be multiplied with the values."""
    scales = np.array(tensor.scales, np.float32)
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise InvalidField(f"{field}.scales", "must be finite numbers, 0 or above")
    return scales.reshape(*shape[:-1], 1)
