"""Arrays survive the wire bit for bit, and malformed tensors are refused by field."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl.errors import InvalidField
from internvl.tensors import convert, from_proto, to_proto
from internvl.v1 import tensor_pb2

DTYPES = st.sampled_from([np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)])
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@given(DTYPES, SHAPES, st.integers(0, 2**32 - 1))
def test_round_trip_is_bit_equal(dtype: np.dtype, shape: list[int], seed: int) -> None:
    bits = np.random.default_rng(seed).bytes(int(np.prod(shape)) * dtype.itemsize)
    array = np.frombuffer(bits, dtype).reshape(shape)
    wire = to_proto(array).SerializeToString()
    back = from_proto(tensor_pb2.Tensor.FromString(wire), "tile")
    assert back.dtype == dtype
    assert back.shape == tuple(shape)
    assert back.tobytes() == bits


@given(SHAPES, st.integers(0, 2**32 - 1), st.floats(-30, 30))
def test_int8_is_off_by_half_a_step_of_its_row_at_most(shape: list[int], seed: int, magnitude: float) -> None:
    array = np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * np.float32(10**magnitude)
    wire = to_proto(convert(array, np.dtype(np.int8))).SerializeToString()
    back = from_proto(tensor_pb2.Tensor.FromString(wire), "tile")
    assert back.dtype == np.float32
    assert back.shape == tuple(shape)
    half_steps = np.abs(array).max(axis=-1, keepdims=True).astype(np.float64) / 127 / 2
    assert (np.abs(back.astype(np.float64) - array) <= half_steps * 1.001).all()


def test_int8_keeps_zeros_and_the_largest_value_of_a_row() -> None:
    array = np.array([[0, 0, 0], [-3, 1.5, 0]], np.float32)
    wire = to_proto(convert(array, np.dtype(np.int8)))
    assert np.frombuffer(wire.data, np.int8).tolist() == [0, 0, 0, -127, 64, 0]
    assert from_proto(wire, "tile")[:, 0].tolist() == [0, pytest.approx(-3)]


def int8(*scales: float, data: bytes = b"1234") -> tensor_pb2.Tensor:
    return tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_INT8, shape=[2, 2], data=data, scales=scales)


@pytest.mark.parametrize(
    "tensor",
    [
        int8(),
        int8(1),
        int8(1, 1, 1),
        int8(1, -1),
        int8(1, float("nan")),
        int8(float("inf"), 1),
        tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[1], data=b"1234", scales=[1]),
    ],
)
def test_scales_are_one_finite_number_a_row_and_for_int8_only(tensor: tensor_pb2.Tensor) -> None:
    with pytest.raises(InvalidField) as caught:
        from_proto(tensor, "tile")
    assert caught.value.field == "tile.scales"


def test_bytes_are_little_endian() -> None:
    assert to_proto(np.array([1.0], np.float32)).data == b"\x00\x00\x80\x3f"
    assert to_proto(np.array([1.0], ml_dtypes.bfloat16)).data == b"\x80\x3f"


@pytest.mark.parametrize(
    ("tensor", "field"),
    [
        (tensor_pb2.Tensor(shape=[1], data=b"1234"), "tile.dtype"),
        (tensor_pb2.Tensor(dtype=99, shape=[1], data=b"1234"), "tile.dtype"),
        (tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, data=b"1234"), "tile.shape"),
        (tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[0], data=b""), "tile.shape"),
        (tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[-1, -1], data=b"1234"), "tile.shape"),
        (tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[2], data=b"1234"), "tile.data"),
        (int8(1, 1, data=b"123"), "tile.data"),
        (tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_BFLOAT16, shape=[2**62, 2**62], data=b""), "tile.data"),
    ],
)
def test_malformed_tensors_are_refused_by_field(tensor: tensor_pb2.Tensor, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        from_proto(tensor, "tile")
    assert caught.value.field == field


def test_other_element_types_are_a_programming_error() -> None:
    with pytest.raises(TypeError, match="int32"):
        to_proto(np.array([1], np.int32))
