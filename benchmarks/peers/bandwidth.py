"""How fast this machine reads memory: the bound of writing one token after another."""

from __future__ import annotations

import ctypes
import math
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

_SOURCE = Path(__file__).with_name("bandwidth.c")
_BYTES = 1 << 30
_REPEATS = 5


def read_bandwidth(threads: int) -> float:
    """What so many threads read from pages of 2 MiB, in GB/s; the best of five passes over 1 GiB.

    NaN where there is no C compiler, or no such memory.
    """
    library = _library()
    if library is None:
        return math.nan
    library.read_seconds.restype = ctypes.c_double
    library.read_seconds.argtypes = (ctypes.c_size_t, ctypes.c_int, ctypes.c_int)
    seconds = float(library.read_seconds(_BYTES, threads, _REPEATS))
    return _BYTES / 1e9 / seconds if seconds > 0 else math.nan


@cache
def _library() -> ctypes.CDLL | None:
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder) / "bandwidth.so")
        flags = ("-O3", "-march=native", "-shared", "-fPIC", "-pthread", "-o", target, str(_SOURCE))
        try:
            subprocess.run([os.environ.get("CC", "cc"), *flags], check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError):
            return None
        return ctypes.CDLL(target)
