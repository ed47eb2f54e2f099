"""From a stream of (name, array) to packed weights, checked against what the model expects.

The stream is consumed once and in its own order; each array is packed and let go before the next one is
asked for, so the peak is the weights held plus what the stream itself keeps open (one shard).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np

from internvl.checkpoint.tensor_specs import Part, TensorKind, TensorSpec, expected_tensors
from internvl.errors import CheckpointError
from internvl.model_config import InternVLConfig
from kernels.ops import Linear, Matrix, Norm, Ops, Tensor

Specs: TypeAlias = Mapping[str, TensorSpec]
WeightStream: TypeAlias = Iterable[tuple[str, np.ndarray]]

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
) -> Weights:
    """Pack a whole model.

    Args:
        stream: names as in `specs`; matrices [out, in].
        specs: every tensor of the model.
        unused: tensors that must be in the stream but that this model never reads.
        tied_table: whether the token table is also applied as a matrix.

    Raises:
        CheckpointError: lists every missing, surplus, repeated and mis-shaped tensor.
    """
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
        if _is_table(specs[name]):
            matrices[name] = ops.pack_table(array, linear=tied_table)
        elif _is_matrix(specs[name]):
            matrices[name] = ops.pack(array.reshape(array.shape[0], -1))
        else:
            tensors[name] = ops.tensor(array)
    problems.extend(
        f"missing: {spec.name} {list(spec.shape)}" for spec in specs.values() if spec.name not in seen
    )
    if problems:
        raise CheckpointError(f"{len(problems)} tensor(s) do not fit the model:\n  " + "\n  ".join(problems))
    return Weights(matrices, tensors)


def _problem(name: str, array: np.ndarray, specs: Specs, seen: set[str]) -> str | None:
    if name not in specs:
        return f"surplus: {name} {list(array.shape)}"
    if name in seen:
        return f"repeated: {name}"
    if array.shape != specs[name].shape:
        return f"mis-shaped: {name} is {list(array.shape)}, expected {list(specs[name].shape)}"
    return None


def _is_matrix(spec: TensorSpec) -> bool:
    """Applied as a matrix: Linear weights and the patch convolution (its stride is its kernel)."""
    return spec.kind in (TensorKind.LINEAR, TensorKind.CONVOLUTION)


def _is_table(spec: TensorSpec) -> bool:
    """Read row by row: the token table."""
    return spec.kind is TensorKind.EMBEDDING and len(spec.shape) == 2
