"""A file's own pages as memory: nothing is copied, and all processes of a machine share them."""

from __future__ import annotations

import ctypes
import errno
import mmap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

# Of Linux, without names in Python: madvise(2), since Linux 5.14, and mlock2(2).
_POPULATE_READ = 22
_LOCK_ON_FAULT = 1

_MAPPINGS = Path("/proc/self/smaps")

# Of the bytes that lie in large pages: what is read between the others costs less than a copy of everything.
_MOSTLY = 0.5


class MappedFile:
    """A whole file that nobody changes. What is written to `bytes` stays in this process.

    Linux keeps files of XFS, and since 6.16 those of ext4, in pages of up to 2 MiB, which memory takes to be
    fast to read (`native/pages.py`); others in pages of 4 KiB. `is_in_large_pages` tells.

    Raises:
        OSError: it cannot be mapped so.
    """

    def __init__(self, file: int) -> None:
        if not hasattr(mmap, "MADV_HUGEPAGE"):
            raise OSError(errno.ENOTSUP, "no large pages")
        self._memory = mmap.mmap(file, 0, access=mmap.ACCESS_COPY)
        self._memory.madvise(mmap.MADV_HUGEPAGE)
        self.bytes = np.frombuffer(self._memory, np.uint8)

    def fetch(self, start: int, end: int) -> None:
        """Have these bytes in memory. Reading them without would end the process where the disk fails.

        Raises:
            OSError: they cannot be read, or Linux is too old.
        """
        start -= start % mmap.PAGESIZE
        self._memory.madvise(_POPULATE_READ, start, end - start)

    def is_in_large_pages(self) -> bool:
        """Whether most of it is, once it was fetched."""
        large = sum(_in_large_pages(self.bytes.ctypes.data))
        return large >= _MOSTLY * self.bytes.nbytes

    def lock(self) -> None:
        """Have the system keep what was fetched, as it keeps other memory, if this process may ask."""
        address, size = ctypes.c_void_p(self.bytes.ctypes.data), ctypes.c_size_t(self.bytes.nbytes)
        with suppress(OSError, AttributeError):  # a C library without it
            ctypes.CDLL(None).mlock2(address, size, ctypes.c_uint(_LOCK_ON_FAULT))


def _in_large_pages(address: int) -> Iterator[int]:
    """Bytes of a file that large pages hold in the mapping at an address."""
    here = False
    with suppress(OSError), _MAPPINGS.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            key, *values = line.split()
            if not key.endswith(":"):
                first, _, last = key.partition("-")
                here = int(first, 16) <= address < int(last, 16)
            elif here and key == "FilePmdMapped:":
                yield 1024 * int(values[0])
