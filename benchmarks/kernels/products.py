"""The four products of a layer in every weight format, against the limits and against plain Paddle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from statistics import median

import numpy as np

from benchmarks.kernels.limits import Limits
from benchmarks.kernels.rates import rate_row, repeated, speedup_row
from benchmarks.report import Row
from benchmarks.rounds import Rounds, alternate
from internvl.checkpoint.weight_format import WeightFormat
from kernels.host import shared
from kernels.native.library import Library
from kernels.native.ops import NativeOps
from kernels.native.packed import PackedMatrix
from kernels.native.pages import large_pages
from kernels.ops import Linear, Ops
from kernels.paddle_ops import PaddleOps
from kernels.runtime import CPU

# [out, in] of one layer.
DECODER = ((9216, 3072), (3072, 3072), (16384, 3072), (3072, 8192))
TOWER = ((3072, 1024), (1024, 1024), (4096, 1024), (1024, 4096))

PACKED = (WeightFormat.BFLOAT16, WeightFormat.INT8, WeightFormat.W8, WeightFormat.W4)

_PLAIN = "plain Paddle, float32"

_ROUNDS = 5
_RUN_S = 0.06  # a side runs about so long in a round

# Few rows go through as many copies of the layer as no cache holds.
_UNCACHED_BYTES = 200 << 20
_FEW_ROWS = 8


class Products:
    """One layer packed in every format, and as plain Paddle has it."""

    def __init__(self, shapes: Sequence[tuple[int, int]], library: Library) -> None:
        self.shapes = shapes
        self._layers: dict[WeightFormat, tuple[Ops, list[list[Linear]]]] = {}
        pattern = np.random.default_rng(0).standard_normal(1_000_003, np.float32) / 50
        weights = [np.resize(pattern, shape) for shape in shapes]
        for form in WeightFormat:
            device = replace(CPU, weights=form)
            ops = PaddleOps(CPU) if form is WeightFormat.FLOAT32 else NativeOps(device, library)
            layer = [Linear(ops.pack(weight)) for weight in weights]
            self._layers[form] = ops, [layer]
            if form is not WeightFormat.FLOAT32:
                copies = -(-_UNCACHED_BYTES // self.packed_bytes(form))
                self._layers[form][1].extend([_copied(each) for each in layer] for _ in range(copies - 1))

    @property
    def numbers(self) -> int:
        """Weights of the layer."""
        return sum(outputs * inputs for outputs, inputs in self.shapes)

    def packed_bytes(self, form: WeightFormat) -> int:
        """Memory of the layer, which a product reads once."""
        return sum(int(_packed(each).panels.numel()) for each in self._layers[form][1][0])

    def seconds(self, form: WeightFormat, rows: int) -> Callable[[], float]:
        """A run of all four products of so many rows; it tells the seconds of one."""
        ops, layers = self._layers[form]
        layers = layers if rows <= _FEW_ROWS else layers[:1]
        random = np.random.default_rng(0)
        inputs = [
            ops.tensor(random.standard_normal((rows, columns), np.float32)) for _, columns in self.shapes
        ]

        def all_layers() -> None:
            for layer in layers:
                for x, each in zip(inputs, layer, strict=True):
                    ops.linear(x, each)

        run = repeated(all_layers, _RUN_S)
        return lambda: run() / len(layers)


def decode_rows(products: Products, rows: int, limits: Limits) -> Iterator[Row]:
    """Few rows: bytes of weights a second, over the nearer of two limits, memory and multiply-adds."""
    times = _measured(products, rows, limits, f"decode {rows}")
    for form in PACKED:
        gigabytes = products.packed_bytes(form) / 1e9
        seconds = times[form]
        speeds = [gigabytes / second for second in seconds]
        reads = [gigabytes / read for read in times["read"]]
        adds = [2e-9 * rows * products.numbers / rate for rate in times[_peak(form)]]
        bound = "memory" if sum(reads) > sum(adds) else "multiply-adds"
        shares = [max(pair) / second for *pair, second in zip(reads, adds, seconds, strict=True)]
        name = f"decode_{form.value}_{rows}"
        yield Row(name, median(speeds), "GB/s", f"bound by {bound}", median(shares))
        yield speedup_row(name, times, form, WeightFormat.FLOAT32, _PLAIN)


def prefill_rows(name: str, products: Products, rows: int, limits: Limits) -> Iterator[Row]:
    """Many rows: multiplications and additions a second, over what is possible between registers."""
    times = _measured(products, rows, limits, f"{name} {rows}")
    work = 2e-9 * rows * products.numbers
    for form in PACKED:
        metric = f"{name}_{form.value}_{rows}"
        yield rate_row(metric, work, "GOP/s", times, form, _peak(form), "bound by multiply-adds")
        yield speedup_row(metric, times, form, WeightFormat.FLOAT32, _PLAIN)


def _measured(products: Products, rows: int, limits: Limits, name: str) -> Rounds[object]:
    sides: dict[object, Callable[[], float]] = {form: products.seconds(form, rows) for form in WeightFormat}
    sides["read"] = limits.read_gb_s
    for form in (WeightFormat.BFLOAT16, WeightFormat.INT8, WeightFormat.W4):
        sides[_peak(form)] = partial(limits.giga_ops, form)
    return alternate(name, _ROUNDS, sides)


def _peak(form: WeightFormat) -> str:
    return "peak w8" if form is WeightFormat.INT8 else f"peak {form.value}"


def _copied(layer: Linear) -> Linear:
    packed = _packed(layer)
    panels = large_pages(int(packed.panels.numel()))
    panels[:] = packed.panels.numpy()
    return Linear(replace(packed, panels=shared(panels)))


def _packed(layer: Linear) -> PackedMatrix:
    if not isinstance(layer.weight, PackedMatrix):
        raise TypeError("not a packed matrix")
    return layer.weight
