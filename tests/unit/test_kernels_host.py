"""Arrays as tensors: the same numbers, memory that lives as long as it is used, and nothing left behind."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from kernels.host import on_device, shared
from kernels.runtime import CPU, open_device

open_device("cpu")


@pytest.mark.parametrize("dtype", ["float32", "int64", "int32", "int8", "uint8"])
@pytest.mark.parametrize("shape", [(1,), (5,), (0, 4), (2, 3, 4)])
def test_numbers_and_shape_are_those_of_the_array(dtype: str, shape: tuple[int, ...]) -> None:
    array = (np.random.default_rng(0).random(shape) * 100).astype(dtype)
    tensor = shared(array)
    assert tuple(tensor.shape) == shape
    np.testing.assert_array_equal(tensor.numpy(), array)


def test_parts_of_an_array_come_out_whole() -> None:
    array = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal((on_device(array[:, 1], CPU) + 1).numpy(), array[:, 1] + 1)


def test_the_memory_is_the_same_and_outlives_the_array() -> None:
    array = np.ones(1 << 20, np.float32)
    tensor = shared(array)
    array[0] = 5
    del array
    gc.collect()
    others = [np.zeros(1 << 20, np.float32) for _ in range(8)]
    assert float(tensor.sum()) == (1 << 20) + 4
    del others


def test_nothing_is_left_of_many_tensors() -> None:
    array = np.arange(8)
    for _ in range(1000):
        shared(array)
    before = resident_bytes()
    for _ in range(50_000):
        shared(array)
    gc.collect()
    assert resident_bytes() - before < 1 << 20  # 80 bytes each would be 4 MB


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
