"""Arrays between numpy and the wire."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from internvl.errors import InvalidField
from internvl.v1 import tensor_pb2

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

DTYPES: Mapping[tensor_pb2.DataType.ValueType, np.dtype[Any]] = {
    tensor_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    tensor_pb2.DATA_TYPE_BFLOAT16: BFLOAT16,
}
"""The numpy type of every element type of the contract."""


def to_proto(array: np.ndarray[Any, Any]) -> tensor_pb2.Tensor:
    """Copy a float32 or bfloat16 array of any shape into a message.

    Raises:
        TypeError: the array has another element type; that is a mistake in this program, not in a request.
    """
    for data_type, dtype in DTYPES.items():
        if array.dtype == dtype:
            return tensor_pb2.Tensor(dtype=data_type, shape=array.shape, data=array.tobytes())
    raise TypeError(f"no wire type for numpy's {array.dtype}")


def from_proto(tensor: tensor_pb2.Tensor, field: str) -> np.ndarray[Any, Any]:
    """View a message as a read-only array, without a copy.

    Args:
        tensor: what came over the wire; nothing about it is trusted.
        field: its path in the request, for error messages.

    Raises:
        InvalidField: unknown element type, an axis below 1, or a length that does not fit the shape.
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
    return np.frombuffer(tensor.data, dtype=dtype).reshape(shape)
