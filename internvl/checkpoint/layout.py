"""How Linear weights lie in the files, and the evidence for it.

Hugging Face files hold a Linear weight as [out, in], Paddle files as [in, out]; every other tensor is the
same in both. Square weights (o_proj, attn.proj, mlp1.3) fit both ways, so no tensor is judged alone: the
non-square ones vote, the container adds what it claims, and one decision holds for the whole checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from internvl.checkpoint.shards import Shard, TensorEntry
from internvl.checkpoint.tensor_specs import TensorKind, TensorSpec
from internvl.errors import CheckpointError


class Layout(StrEnum):
    HF = "hf"
    PADDLE = "paddle"


# The `format` entry that writers put in a safetensors header, as far as it tells the orientation; "np" is
# written by either side, so it claims nothing.
_CLAIMED_BY_FORMAT = {"pt": Layout.HF, "pd": Layout.PADDLE, "pdparams": Layout.PADDLE}


@dataclass(frozen=True, slots=True)
class LayoutDecision:
    """The layout of a whole checkpoint and, one sentence each, why."""

    layout: Layout
    evidence: tuple[str, ...]


def stored_shape(spec: TensorSpec, layout: Layout) -> tuple[int, ...]:
    """The shape `spec` has in files of `layout`."""
    if layout is Layout.PADDLE and spec.kind is TensorKind.LINEAR:
        return spec.shape[::-1]
    return spec.shape


def reorient(array: NDArray[Any], spec: TensorSpec, layout: Layout) -> NDArray[Any]:
    """Turn an array between files of `layout` and Hugging Face orientation; the same step both ways.

    Returns a view: a transposed weight is not contiguous, and transposing it back costs nothing.
    """
    if layout is Layout.PADDLE and spec.kind is TensorKind.LINEAR:
        return np.transpose(array)
    return array


def decide_layout(
    entries: Mapping[str, TensorEntry], expected: Mapping[str, TensorSpec], shards: Sequence[Shard]
) -> LayoutDecision:
    """Weigh all evidence.

    Raises:
        CheckpointError: the evidence is contradictory, or there is none.
    """
    votes = _votes(entries, expected)
    claims = _claims(shards)
    evidence = [
        f"{len(names)} non-square Linear weights have {layout} orientation, for example "
        f"{names[0]} {list(entries[names[0]].shape)}"
        for layout, names in votes.items()
        if names
    ] + [
        f"{len(files)} of {len(shards)} files claim {layout} orientation, for example {files[0]}"
        for layout, files in claims.items()
        if files
    ]
    layouts = {layout for layout in Layout if votes[layout] or claims[layout]}
    if len(layouts) > 1:
        raise CheckpointError(f"contradictory layout: {'; '.join(evidence)}")
    if not any(votes.values()):
        raise CheckpointError("unknown layout: no non-square Linear weight has a shape that fits the config")
    return LayoutDecision(layouts.pop(), tuple(evidence))


def _votes(entries: Mapping[str, TensorEntry], expected: Mapping[str, TensorSpec]) -> dict[Layout, list[str]]:
    """Names of the non-square Linear weights whose stored shape fits exactly one layout."""
    votes: dict[Layout, list[str]] = {layout: [] for layout in Layout}
    for name, spec in expected.items():
        if spec.kind is not TensorKind.LINEAR or spec.shape[0] == spec.shape[1] or name not in entries:
            continue
        for layout in Layout:
            if entries[name].shape == stored_shape(spec, layout):
                votes[layout].append(name)
    return votes


def _claims(shards: Sequence[Shard]) -> dict[Layout, list[str]]:
    """Names of the files whose container tells its orientation."""
    claims: dict[Layout, list[str]] = {layout: [] for layout in Layout}
    for shard in shards:
        if shard.format in _CLAIMED_BY_FORMAT:
            claims[_CLAIMED_BY_FORMAT[shard.format]].append(shard.name)
    return claims
