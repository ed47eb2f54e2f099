"""Which implementation of the operators computes."""

from __future__ import annotations

from kernels.ops import Ops
from kernels.paddle_ops import PaddleOps
from kernels.runtime import Device


def open_ops(device: Device, batch_invariant: bool = False) -> Ops:
    """The best implementation for the device; today plain Paddle operators on all of them.

    Args:
        batch_invariant: take only those whose rows can be computed alike whatever is computed beside them.
    """
    return PaddleOps(device, batch_invariant)
