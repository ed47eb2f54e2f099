"""Norms and gates: what a layer does to each row between its products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks.engine.rounds import alternate
from benchmarks.kernels.limits import Limits, seconds_of
from benchmarks.report import Row
from internvl.checkpoint.weight_format import WeightFormat
from kernels.native.ops import NativeOps
from kernels.ops import Norm, Ops, Tensor
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
        "swiglu_1": (numbers(1, 16384), lambda ops, x: ops.swiglu(x)),
        "swiglu_512": (numbers(512, 16384), lambda ops, x: ops.swiglu(x)),
        "layer_norm_1025": (numbers(1025, 1024), lambda ops, x: ops.norm(x, layer)),
        "gelu_1025": (numbers(1025, 4096), lambda ops, x: ops.gelu(x)),
    }
    for name, (x, compute) in cases.items():
        size = 4e-9 * (x.numel() + compute(native, x).numel())
        times = alternate(
            name,
            _ROUNDS,
            {
                "native": _repeated(partial(compute, native, x)),
                "plain": _repeated(partial(compute, plain, x)),
                "read": limits.read_gb_s,
            },
        )
        speeds = [float(size) / seconds for seconds in times["native"]]
        shares = [speed / read for speed, read in zip(speeds, times["read"], strict=True)]
        yield Row(name, float(np.median(speeds)), "GB/s", "reading memory", float(np.median(shares)))
        speedup = times.ratio("plain", "native")
        yield Row(f"{name}_speedup", speedup, "x", "plain Paddle", speedup)


def _repeated(work: Callable[[], object]) -> Callable[[], float]:
    """Seconds of one run, taken over some milliseconds."""

    def run(times: int) -> None:
        for _ in range(times):
            work()

    run(1)
    times = max(1, round(_RUN_S / seconds_of(partial(run, 1))))
    return lambda: seconds_of(partial(run, times)) / times
