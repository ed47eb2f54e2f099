"""One safetensors file, read tensor by tensor."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from internvl.checkpoint.shards import TensorEntry
from internvl.errors import CheckpointError

# Numpy has no bfloat16, so Paddle's writers store its bits as unsigned 16-bit numbers. No weight is a U16.
_DTYPES = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "U16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "U8": np.dtype(np.uint8),
}


_KNOWN = {dtype.name: dtype for dtype in _DTYPES.values()}


class SafetensorsShard:
    """Implements `Shard`.

    Raises:
        CheckpointError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = path.name
        with _opened(path) as file:
            self.format = (file.metadata() or {}).get("format", "")
            self.entries = {name: _entry(name, file.get_slice(name)) for name in file.offset_keys()}
        self._places = _places(path)

    def read(self, names: Collection[str]) -> Iterator[tuple[str, NDArray[Any]]]:
        with self._path.open("rb", buffering=0) as file:
            for name in self.entries:
                if name in names:
                    yield name, self._tensor(file.fileno(), name)

    def forget(self, names: Collection[str]) -> None:
        with suppress(OSError), self._path.open("rb", buffering=0) as file:
            for name in names:
                size = self.entries[name].nbytes
                os.posix_fadvise(file.fileno(), self._places[name], size, os.POSIX_FADV_DONTNEED)

    def _tensor(self, file: int, name: str) -> NDArray[Any]:
        """Not by the library, which holds the interpreter while it reads: others compute meanwhile."""
        entry = self.entries[name]
        if entry.dtype not in _KNOWN:
            raise CheckpointError(f"{self.name}: {name} has dtype {entry.dtype}, which is not a weight's")
        array = np.empty(entry.shape, _KNOWN[entry.dtype])
        try:
            _read_exactly(file, array.reshape(-1).view(np.uint8).data, self._places[name])
        except (OSError, EOFError) as error:
            raise CheckpointError(f"{self.name}: cannot read {name} ({error})") from None
        return array


def _opened(path: Path) -> Any:
    """Have the library check the whole header: sizes, types, and that there are no gaps."""
    try:
        return safe_open(path, framework="np", backend="pread")
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path.name}: not a readable safetensors file ({error})") from None


def _places(path: Path) -> dict[str, int]:
    """Where in a file that the library found sound each tensor begins."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(length))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name}: not a readable safetensors file ({error})") from None
    return {
        name: 8 + length + entry["data_offsets"][0]
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _read_exactly(file: int, into: memoryview, offset: int) -> None:
    """Positioned reads: unlike a memory map, pages that were read do not stay in this process.

    Raises:
        EOFError: the file is shorter.
    """
    while into:
        count = os.preadv(file, [into], offset)
        if not count:
            raise EOFError("the file has become shorter")
        into, offset = into[count:], offset + count


def _entry(name: str, view: Any) -> TensorEntry:
    code = view.get_dtype()
    shape = tuple(view.get_shape())
    dtype = _DTYPES.get(code)
    if dtype is None:
        return TensorEntry(name, shape, code, 0)
    return TensorEntry(name, shape, dtype.name, math.prod(shape) * dtype.itemsize)
