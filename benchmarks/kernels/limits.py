"""What the processor does at most, as the operators of the library would have to do it."""

from __future__ import annotations

import time

from benchmarks.kernels.rates import seconds_of
from internvl.checkpoint.weight_format import WeightFormat
from kernels.native.library import Library
from kernels.native.packed import packing_of
from kernels.native.pages import large_pages

_READ_BYTES = 512 << 20
_ROUNDS = 4_000_000


class Limits:
    """Measures anew at every call, so that a round has limits of its own."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._memory = large_pages(_READ_BYTES)
        self._memory.fill(1)  # pages nobody wrote to are all the same one

    def read_gb_s(self) -> float:
        """Bytes that all threads read from memory together, in GB/s."""
        return _READ_BYTES / 1e9 / seconds_of(lambda: self.library.read_all(self._memory))

    def giga_ops(self, form: WeightFormat) -> float:
        """Multiplications and additions of all threads as products in this format do them, in GOP/s."""
        began = time.perf_counter()
        return 2e-9 * self.library.multiply_adds(packing_of(form), _ROUNDS) / (time.perf_counter() - began)
