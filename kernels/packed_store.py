"""Weights as packed bytes: which of a model's tensors become what, on their way to a cache and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from internvl.checkpoint.tensor_specs import TensorKind, TensorSpec
from internvl.checkpoint.weight_format import Weight
from kernels.ops import Matrix, MatrixBytes, Ops, Tensor
from kernels.packed_file import Blob
from kernels.weight_cache import CachedPart


def is_table(spec: TensorSpec) -> bool:
    """Read row by row: the token table."""
    return spec.kind is TensorKind.EMBEDDING and len(spec.shape) == 2


@dataclass(frozen=True, slots=True)
class PackedStore:
    """The weights of one model in a cache, for one implementation of the operators."""

    _cache: CachedPart
    _specs: Sequence[TensorSpec]
    _ops: Ops
    _bytes: MatrixBytes

    def read(self) -> tuple[dict[str, Matrix], dict[str, Tensor]] | None:
        """Matrices and tensors by name, or None if they are not there."""
        sizes = {spec.name: self._size(spec) for spec in self._specs}
        blobs = self._cache.read(self._bytes.layout, sizes, lambda name: self._bytes.room(sizes[name]))
        if blobs is None:
            return None
        matrices: dict[str, Matrix] = {}
        tensors: dict[str, Tensor] = {}
        for spec in self._specs:
            blob = blobs.pop(spec.name)
            if _is_packed(spec):
                matrices[spec.name] = self._bytes.restored(_flat(spec), is_table(spec), blob)
            else:
                tensors[spec.name] = self._ops.tensor(blob.view(np.float32).reshape(spec.shape))
        return matrices, tensors

    def packing(self, stream: Iterable[tuple[str, Weight]]) -> Iterator[tuple[str, Weight]]:
        """Pass a checkpoint on; the memory that the system keeps of its files goes to what is packed instead.

        The next start reads what was packed, not the checkpoint, unless that is too large to be kept.
        """
        replaced = self._cache.replaces(sum(map(self._size, self._specs)))
        for name, weight in stream:
            yield name, weight
            if replaced:
                self._cache.forget(name)

    def write(self, matrix: Callable[[str], Matrix], tensor: Callable[[str], Tensor]) -> None:
        """Begin to write; see `WeightCache.write`."""
        blobs = {
            spec.name: self._bytes.contents(matrix(spec.name))
            if _is_packed(spec)
            else _bytes_of(self._ops.to_numpy(tensor(spec.name)))
            for spec in self._specs
        }
        self._cache.write(self._bytes.layout, blobs)

    def _size(self, spec: TensorSpec) -> int:
        return self._bytes.size(_flat(spec), is_table(spec)) if _is_packed(spec) else 4 * spec.parameters


def packed_store(cache: CachedPart, specs: Sequence[TensorSpec], ops: Ops) -> PackedStore | None:
    """The place in a cache for these tensors; None if the implementation packs nothing."""
    return None if ops.matrix_bytes is None else PackedStore(cache, specs, ops, ops.matrix_bytes)


def _is_packed(spec: TensorSpec) -> bool:
    return spec.is_matrix or is_table(spec)


def _flat(spec: TensorSpec) -> tuple[int, int]:
    return spec.shape[0], spec.parameters // spec.shape[0]


def _bytes_of(array: np.ndarray) -> Blob:
    return np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint8)
