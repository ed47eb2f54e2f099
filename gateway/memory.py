"""How the C library keeps the memory of tiles, which come and go by the hundred, 1.5 MiB each."""

from __future__ import annotations

import ctypes

from internvl.telemetry import get_logger

# Numbers of mallopt(3), of the GNU C library.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_MIB = 2**20

_log = get_logger("memory")


def keep_freed_memory() -> None:
    """Hold up to 16 MiB of freed memory for the next tile. Other C libraries than GNU's stay as they are.

    By default each tile gets pages of its own, which the kernel clears and takes back again: a third of all
    the processor time that its way through the gateway takes. One arena, so that it is held once and not for
    each of gRPC's threads.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for option, value in ((_TRIM_THRESHOLD, 16 * _MIB), (_MMAP_THRESHOLD, 8 * _MIB), (_ARENA_MAX, 1)):
        if not mallopt(option, value):
            _log.warning("memory cannot be kept", option=option)
