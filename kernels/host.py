"""Arrays of the host as tensors, as often as a step needs them.

Not by `paddle.to_tensor` or `paddle.from_dlpack`: in Paddle 3.3.1 every call leaves 112 or 80 bytes behind
for good, which at several tensors a step adds up to gigabytes in days. Made as here a tensor leaves nothing.
"""

from __future__ import annotations

import numpy as np

from kernels.runtime import Device, quiet_import

with quiet_import():
    import paddle


def shared(array: np.ndarray) -> paddle.Tensor:
    """A tensor on the CPU in the memory of an array, which lives on with it. The array must be writable."""
    tensor = paddle.empty([0], dtype=array.dtype.name)
    tensor.get_tensor()._share_data_with(paddle.base.core.from_dlpack(array.__dlpack__()))
    return tensor


def on_device(array: np.ndarray, device: Device) -> paddle.Tensor:
    """A tensor with the numbers of an array, in its memory where that can be."""
    if device.kind == "cpu":
        return shared(np.ascontiguousarray(array))
    return paddle.to_tensor(array, place=device.place)
