"""From a stream of (name, array) to packed weights, checked against what the model expects.

The stream is consumed once and in its own order; each array is packed and let go before the next one is
asked for, so the peak is the weights held plus what the stream itself keeps open (one shard).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from internvl.checkpoint.tensor_specs import Part, TensorSpec, expected_tensors
from internvl.checkpoint.weight_format import Codes, Weight
from internvl.errors import CheckpointError
from internvl.model_config import InternVLConfig
from kernels.ops import Linear, Matrix, Norm, Ops, Tensor
from kernels.packed_store import is_table, packed_store
from kernels.runtime import give_back_memory
from kernels.weight_cache import CachedPart

Specs: TypeAlias = Mapping[str, TensorSpec]
WeightStream: TypeAlias = Iterable[tuple[str, Weight]]

# Buffers some exports carry along; they are computed from the configuration.
_DERIVED = ".inv_freq"


class Weights:
    """The weights of one model by name, in the form its operators take."""

    def __init__(self, matrices: dict[str, Matrix], tensors: dict[str, Tensor]) -> None:
        self._matrices = matrices
        self._tensors = tensors

    def matrix(self, name: str) -> Matrix:
        return self._matrices[name]

    def tensor(self, name: str) -> Tensor:
        return self._tensors[name]

    def linear(self, prefix: str) -> Linear:
        """`prefix.weight` with `prefix.bias` where the model has one."""
        return Linear(self._matrices[f"{prefix}.weight"], self._tensors.get(f"{prefix}.bias"))

    def norm(self, prefix: str, eps: float) -> Norm:
        """`prefix.weight` and, for a LayerNorm, `prefix.bias`."""
        return Norm(self._tensors[f"{prefix}.weight"], self._tensors.get(f"{prefix}.bias"), eps)


def specs_of(config: InternVLConfig, *parts: Part) -> Specs:
    """What a checkpoint of `config` holds for these parts of the model."""
    return {name: spec for name, spec in expected_tensors(config).items() if spec.part in parts}


def load_weights(
    stream: WeightStream,
    specs: Specs,
    ops: Ops,
    unused: frozenset[str] = frozenset(),
    tied_table: bool = False,
    cache: CachedPart | None = None,
) -> Weights:
    """Pack a whole model, or take it from a cache as it was packed before.

    Args:
        stream: names as in `specs`; matrices [out, in], as numbers or codes.
        specs: every tensor of the model.
        unused: tensors that must be in the stream but that this model never reads.
        tied_table: whether the token table is also applied as a matrix.
        cache: where packed weights are looked for before the stream is touched, and kept afterwards.

    Raises:
        CheckpointError: lists every missing, surplus, repeated and mis-shaped tensor.
    """
    wanted = [spec for name, spec in specs.items() if name not in unused]
    store = None if cache is None or tied_table else packed_store(cache, wanted, ops)
    if store is not None and (found := store.read()) is not None:
        return Weights(*found)
    stream = stream if store is None else store.packing(stream)
    weights = _packed(stream, specs, ops, unused, tied_table)
    give_back_memory()
    if store is not None:
        store.write(weights.matrix, weights.tensor)
    return weights


def _packed(
    stream: WeightStream, specs: Specs, ops: Ops, unused: frozenset[str], tied_table: bool
) -> Weights:
    matrices: dict[str, Matrix] = {}
    tensors: dict[str, Tensor] = {}
    seen: set[str] = set()
    problems: list[str] = []
    for name, array in stream:
        if name.endswith(_DERIVED):
            continue
        problem = _problem(name, array, specs, seen)
        seen.add(name)
        if problem:
            problems.append(problem)
        if problems or name in unused:
            continue
        if isinstance(array, Codes) or specs[name].is_matrix:
            matrices[name] = ops.pack(array)
        elif is_table(specs[name]):
            matrices[name] = ops.pack_table(array, linear=tied_table)
        else:
            tensors[name] = ops.tensor(array)
    problems.extend(
        f"missing: {spec.name} {list(spec.shape)}" for spec in specs.values() if spec.name not in seen
    )
    if problems:
        raise CheckpointError(f"{len(problems)} tensor(s) do not fit the model:\n  " + "\n  ".join(problems))
    return Weights(matrices, tensors)


def _problem(name: str, array: Weight, specs: Specs, seen: set[str]) -> str | None:
    if name not in specs:
        return f"surplus: {name} {list(array.shape)}"
    if name in seen:
        return f"repeated: {name}"
    if array.shape != specs[name].shape:
        return f"mis-shaped: {name} is {list(array.shape)}, expected {list(specs[name].shape)}"
    return None
