"""The built operators as functions."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import Any

import numpy as np

from internvl.checkpoint.weight_format import Codes, flat_shape
from internvl.errors import ConfigError
from internvl.telemetry import get_logger
from kernels.native.build import BuildError, build, library_path
from kernels.runtime import quiet_import

with quiet_import():
    import paddle

_VARIABLE = "INTERNVL_NATIVE"
_MODES = ("auto", "build", "off")
_PACK_ARGUMENTS = (ctypes.c_void_p, ctypes.c_bool, *4 * (ctypes.c_int64,), ctypes.c_void_p)
_PACK_CODES_ARGUMENTS = (2 * (ctypes.c_void_p,)) + (4 * (ctypes.c_int64,)) + (ctypes.c_void_p,)


class Library:
    """A loaded library. Call its operators on the compute thread only: they use its pool of threads."""

    def __init__(self, path: Path) -> None:
        # Paddle's loader: the library is no Python module, so an import of it would fail.
        paddle.utils.cpp_extension.load_op_meta_info_and_register_op(str(path))
        # Not `from paddle import _C_ops` at the top: the name exists only in builds with eager mode.
        self._run = paddle._C_ops._run_custom_op
        self._handle = ctypes.CDLL(str(path))
        self._handle.internvl_level.restype = ctypes.c_char_p
        self._handle.internvl_use_level.restype = ctypes.c_bool
        self._handle.internvl_pack.argtypes = _PACK_ARGUMENTS
        self._handle.internvl_read_all.argtypes = (ctypes.c_void_p, ctypes.c_int64)
        self._handle.internvl_multiply_adds.argtypes = (ctypes.c_int64, ctypes.c_int64)
        self._handle.internvl_multiply_adds.restype = ctypes.c_int64
        self._handle.internvl_pack_codes.argtypes = _PACK_CODES_ARGUMENTS

    def call(self, operator: str, *arguments: Any) -> paddle.Tensor:
        """The one output of an operator: tensors, then attributes, in the order the C++ file gives."""
        return self._run(operator, *arguments)[0]

    def pack(self, weight: np.ndarray, from_bfloat16: bool, group: int, packing: int, to: np.ndarray) -> None:
        """Write the panels of a contiguous matrix [out, in], float32 or bfloat16, to an array that fits."""
        outputs, inputs = weight.shape
        self._handle.internvl_pack(
            weight.ctypes.data, from_bfloat16, outputs, inputs, group, packing, to.ctypes.data
        )

    def read_all(self, memory: np.ndarray) -> None:
        """Read a contiguous array once, on all threads of the pool: for benchmarks."""
        self._handle.internvl_read_all(memory.ctypes.data, memory.nbytes)

    def multiply_adds(self, packing: int, rounds: int) -> int:
        """Do the multiply-adds of a packing between registers alone; how many. For benchmarks."""
        return int(self._handle.internvl_multiply_adds(packing, rounds))

    def pack_codes(self, codes: Codes, group: int, packing: int, to: np.ndarray) -> None:
        """The same for codes that were chosen before."""
        outputs, inputs = flat_shape(codes.shape)
        scales, lows = (each.view(np.uint16).astype(np.uint32) for each in (codes.scales, codes.lows))
        factors, numbers = scales << 16 | lows, np.ascontiguousarray(codes.codes)
        self._handle.internvl_pack_codes(
            numbers.ctypes.data, factors.ctypes.data, outputs, inputs, group, packing, to.ctypes.data
        )

    @property
    def level(self) -> str:
        """The instruction set in use: "avx512_bf16", "avx512", "avx2" or "baseline"."""
        name: bytes = self._handle.internvl_level()
        return name.decode()

    def use_level(self, level: str) -> bool:
        """Use another instruction set from now on, for tests; False if this processor lacks it."""
        return bool(self._handle.internvl_use_level(level.encode()))


@functools.cache
def open_library() -> Library | None:
    """The operators, or None with a line in the log that says why there are none. Loaded once a process.

    INTERNVL_NATIVE says how: `auto` (the default) loads what `python -m kernels.native` or an earlier start
    has built; `build` builds first where that is needed, which takes some 30 s; `off` or 0 loads nothing.

    Raises:
        ConfigError: INTERNVL_NATIVE is none of these.
    """
    mode = os.environ.get(_VARIABLE, "auto").lower()
    mode = "off" if mode == "0" else mode
    if mode not in _MODES:
        raise ConfigError(f"{_VARIABLE}: {mode!r} is not one of {', '.join(_MODES)}")
    if mode == "off":
        return None
    log = get_logger("kernels")
    try:
        path = build() if mode == "build" else library_path()
        if not path.exists():
            log.info("native operators not built", hint="python -m kernels.native builds them")
            return None
        library = Library(path)
    except (BuildError, OSError, RuntimeError) as error:
        log.warning("native operators not used", reason=str(error).splitlines()[0][:200])
        return None
    log.info("native operators loaded", level=library.level)
    return library
