"""Process settings that Paddle and NumPy read when they are imported; import this first."""

import os

SETTINGS = {
    "MKL_DEBUG_CPU_TYPE": "5",
    "MKL_DYNAMIC": "FALSE",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "FLAGS_paddle_num_threads": "1",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
    "MALLOC_ARENA_MAX": "1",
}


def apply() -> None:
    """One thread a process, Paddle's fast matrix path; the malloc settings act on child processes."""
    os.environ.update(SETTINGS)
