"""Norms and gates: what a layer does to each row between its products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks.kernels.limits import Limits
from benchmarks.kernels.rates import rate_row, repeated, speedup_row
from benchmarks.report import Row
from benchmarks.rounds import alternate
from internvl.checkpoint.weight_format import WeightFormat
from kernels.native.ops import NativeOps
from kernels.ops import Activation, Norm, Ops, Tensor
from kernels.paddle_ops import PaddleOps
from kernels.runtime import CPU

_ROUNDS = 9
_RUN_S = 5e-3


def rowwise_rows(limits: Limits) -> Iterator[Row]:
    """Bytes read and written a second; what comes from a cache may be faster than memory."""
    random = np.random.default_rng(0)
    native, plain = NativeOps(replace(CPU, weights=WeightFormat.BFLOAT16), limits.library), PaddleOps(CPU)

    def numbers(*shape: int) -> Tensor:
        return plain.tensor(random.standard_normal(shape, np.float32))

    rms, layer = Norm(numbers(3072), None, 1e-5), Norm(numbers(1024), numbers(1024), 1e-6)
    cases: dict[str, tuple[Tensor, Callable[[Ops, Tensor], Tensor]]] = {
        "rms_norm_1": (numbers(1, 3072), lambda ops, x: ops.norm(x, rms)),
        "rms_norm_512": (numbers(512, 3072), lambda ops, x: ops.norm(x, rms)),
        "swiglu_1": (numbers(1, 16384), lambda ops, x: ops.activate(x, Activation.SWIGLU)),
        "swiglu_512": (numbers(512, 16384), lambda ops, x: ops.activate(x, Activation.SWIGLU)),
        "layer_norm_1025": (numbers(1025, 1024), lambda ops, x: ops.norm(x, layer)),
        "gelu_1025": (numbers(1025, 4096), lambda ops, x: ops.activate(x, Activation.GELU)),
    }
    for name, (x, compute) in cases.items():
        gigabytes = float(4e-9 * (x.numel() + compute(native, x).numel()))
        times = alternate(
            name,
            _ROUNDS,
            {
                "native": repeated(partial(compute, native, x), _RUN_S),
                "plain": repeated(partial(compute, plain, x), _RUN_S),
                "read": limits.read_gb_s,
            },
        )
        yield rate_row(name, gigabytes, "GB/s", times, "native", "read", "reading memory")
        yield speedup_row(name, times, "native", "plain")
