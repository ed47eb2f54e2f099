"""One safetensors file, read tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
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
}


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

    def read(self, names: Collection[str]) -> Iterator[tuple[str, NDArray[Any]]]:
        with _opened(self._path) as file:
            for name in self.entries:
                if name in names:
                    yield name, self._tensor(file, name)

    def _tensor(self, file: Any, name: str) -> NDArray[Any]:
        dtype = self.entries[name].dtype
        if dtype not in {known.name for known in _DTYPES.values()}:
            raise CheckpointError(f"{self.name}: {name} has dtype {dtype}, which is not a weight's")
        try:
            array: NDArray[Any] = file.get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise CheckpointError(f"{self.name}: cannot read {name} ({error})") from None
        return array.view(dtype) if array.dtype == np.uint16 else array


def _opened(path: Path) -> Any:
    """Open for positioned reads: unlike a memory map, pages that were read do not stay in this process."""
    try:
        return safe_open(path, framework="np", backend="pread")
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path.name}: not a readable safetensors file ({error})") from None


def _entry(name: str, view: Any) -> TensorEntry:
    code = view.get_dtype()
    shape = tuple(view.get_shape())
    dtype = _DTYPES.get(code)
    if dtype is None:
        return TensorEntry(name, shape, code, 0)
    return TensorEntry(name, shape, dtype.name, math.prod(shape) * dtype.itemsize)
