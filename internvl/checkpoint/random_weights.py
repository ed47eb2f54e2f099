"""Random weights of plausible size for any config, for benchmarks and tests.

Each tensor is drawn from a generator of its own, keyed by seed and name: it does not depend on which
other tensors exist, nor on the order or the number of files.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from internvl.checkpoint.tensor_specs import TensorKind, TensorSpec
from internvl.checkpoint.writer import numpy_dtype

# Numbers drawn at a time: keeps the float32 draft of a large bfloat16 tensor at 64 MiB.
_BLOCK = 1 << 24


def random_tensors(specs: Iterable[TensorSpec], seed: int, dtype: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield (name, array) for each spec, in Hugging Face orientation."""
    for spec in specs:
        yield spec.name, random_tensor(spec, seed, dtype)


def random_tensor(spec: TensorSpec, seed: int, dtype: str) -> NDArray[Any]:
    """Draw one tensor: normal around 1 for gains (norms, layer scale), around 0 for everything else."""
    key = hashlib.blake2b(f"{seed} {spec.name}".encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    mean = np.float32(1.0 if spec.kind is TensorKind.GAIN else 0.0)
    deviation = np.float32(_deviation(spec))
    flat = np.empty(spec.parameters, numpy_dtype(dtype))
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        block[:] = generator.standard_normal(block.size, dtype=np.float32) * deviation + mean
    return flat.reshape(spec.shape)


def _deviation(spec: TensorSpec) -> float:
    """Products keep the scale of their input at any width; the rest has the reference's 0.02.

    Gains and biases vary too: with all ones and zeros a test could not see that one is left out.
    """
    if spec.is_matrix:
        return 1 / math.sqrt(spec.parameters / spec.shape[0])
    return 0.02
