"""One .pdparams file: a pickle, read without ever running what it asks for.

`paddle.save` writes a state dict as a pickled dict of numpy arrays. The unpickler below knows the four
names that such a file needs and answers each with a harmless object of its own, so that not even numpy's
constructors run on values from the file. Any other name is refused. bfloat16 is stored as uint16 bits.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from internvl.checkpoint.shards import TensorEntry
from internvl.errors import CheckpointError

_NAME_TABLE = "StructuredToParameterName@@"
# Pickle protocols 2 and 3 cannot hold big arrays: paddle.save cuts them up and adds this table.
_SLICE_TABLE = "UnpackBigParamInfor@@"

_DTYPES = {
    "u2": np.dtype(ml_dtypes.bfloat16),
    "f2": np.dtype(np.float16),
    "f4": np.dtype(np.float32),
    "f8": np.dtype(np.float64),
    "i4": np.dtype(np.int32),
    "i8": np.dtype(np.int64),
}


class PdparamsShard:
    """Implements `Shard`.

    Raises:
        CheckpointError: the file is damaged, or asks for anything but arrays.
    """

    format = "pdparams"

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = path.name
        self.entries = {
            name: TensorEntry(name, array.shape, array.dtype.name, array.nbytes)
            for name, array in _load_arrays(path).items()
        }

    def read(self, names: Collection[str]) -> Iterator[tuple[str, NDArray[Any]]]:
        arrays = _load_arrays(self._path)
        for name in list(arrays):
            array = arrays.pop(name)
            if name in names:
                yield name, array

    def forget(self, names: Collection[str]) -> None:
        """Nothing: tensors have no places, and another service may be reading the file, which goes whole."""


def _load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, path.name).load()
        return _arrays(content, path.name)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged or hostile pickle can raise anything at all
        raise CheckpointError(f"{path.name}: not a readable .pdparams file ({error})") from None


def _arrays(content: object, file: str) -> dict[str, NDArray[Any]]:
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: expected a dict of arrays, found {type(content).__name__}")
    content.pop(_NAME_TABLE, None)
    slices = content.pop(_SLICE_TABLE, {})
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, _StoredArray):
            raise CheckpointError(f"{file}: expected an array for {name!r}, found {type(value).__name__}")
    arrays = {name: value.array for name, value in content.items()}
    return _joined(arrays, slices) if slices else arrays


def _joined(arrays: dict[str, NDArray[Any]], slices: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    for name, table in slices.items():
        parts = [arrays.pop(part) for part in table["slices"]]
        arrays[name] = np.concatenate(parts).reshape(table["OriginShape"])
    return arrays


class _StoredArray:
    """Takes the place of an ndarray while it is unpickled; `array` is read-only, over the pickled bytes."""

    __slots__ = ("array",)

    def __setstate__(self, state: tuple[int, tuple[int, ...], _StoredDtype, bool, bytes]) -> None:
        _, shape, dtype, is_fortran, data = state
        flat = np.frombuffer(data, dtype=dtype.dtype)
        self.array: NDArray[Any] = flat.reshape(shape, order="F" if is_fortran else "C")


class _StoredDtype:
    """Takes the place of a numpy dtype; only plain little-endian numbers pass."""

    __slots__ = ("dtype",)

    def __init__(self, code: str) -> None:
        if code not in _DTYPES:
            raise ValueError(f"arrays of dtype {code!r} are not weights")
        self.dtype = _DTYPES[code]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", "|"):
            raise ValueError("big-endian arrays are not supported")


class _MakeArray:
    """Answers numpy's `_reconstruct`. No `__dict__`, so a pickle cannot plant attributes on it."""

    __slots__ = ()

    def __call__(self, subtype: object, shape: object, typecode: object) -> _StoredArray:
        if not isinstance(subtype, _ArrayType):
            raise ValueError("only plain arrays are supported")
        return _StoredArray()


class _ArrayType:
    """Answers `numpy.ndarray`, which the file only passes on to `_reconstruct`."""

    __slots__ = ()


class _MakeDtype:
    """Answers `numpy.dtype`."""

    __slots__ = ()

    def __call__(self, code: str, align: bool = False, copy: bool = True) -> _StoredDtype:
        return _StoredDtype(code)


class _MakeBytes:
    """Answers `_codecs.encode`: protocol 2 has no bytes and writes them as latin-1 text."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise ValueError("only latin1 text can stand for bytes")
        return text.encode("latin1")


_ALLOWED: Mapping[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _MakeArray(),
    ("numpy._core.multiarray", "_reconstruct"): _MakeArray(),
    ("numpy", "ndarray"): _ArrayType(),
    ("numpy", "dtype"): _MakeDtype(),
    ("_codecs", "encode"): _MakeBytes(),
}


class _ArrayUnpickler(pickle._Unpickler):
    """The interpreter's unpickler in Python, not its twin in C: that one allocates whatever table size a
    hostile file asks for. A state dict has a few opcodes a tensor, so the speed is that of reading."""

    def __init__(self, file: Any, name: str) -> None:
        super().__init__(file)
        self._name = name

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise CheckpointError(f"{self._name}: refused, the pickle asks for {module}.{name}")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise CheckpointError(f"{self._name}: refused, the pickle asks for a persistent object")
