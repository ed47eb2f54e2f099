"""Which implementation of the operators computes."""

from __future__ import annotations

from kernels.native.library import open_library
from kernels.native.ops import NativeOps
from kernels.ops import Ops
from kernels.paddle_ops import PaddleOps
from kernels.runtime import Device


def open_ops(device: Device, batch_invariant: bool = False) -> Ops:
    """The best implementation for the device: native operators on CPU where they are built, else Paddle's.

    Args:
        batch_invariant: take only those whose rows can be computed alike whatever is computed beside them.

    Raises:
        ConfigError: INTERNVL_NATIVE holds an unknown word; see `kernels.native.library.open_library`.
    """
    library = open_library() if device.kind == "cpu" else None
    if library is None:
        return PaddleOps(device, batch_invariant)
    return NativeOps(device, library, batch_invariant)


def operators_of(device: str) -> str:
    """What `open_ops` takes for a device of this name: `paddle`, or `native` and its instruction set.

    Raises:
        ConfigError: as `open_ops`.
    """
    library = open_library() if device == "cpu" else None
    return "paddle" if library is None else f"native {library.level}"
