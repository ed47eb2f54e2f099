"""How a checkpoint holds matrices as codes: three tensors in the place of each.

    NAME.codes    U8    [out, groups, group]    of 4 bits: two to a byte, the first in the lower half
    NAME.scales   BF16  [out, groups]
    NAME.lows     BF16  [out, groups]

Every weight is low + scale * code. config.json says so: `"weight_format": {"name": "w4", "version": 2}`. All
other tensors are as they always are, and Linear weights are [out, in].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from internvl.checkpoint.tensor_specs import TensorKind, TensorSpec
from internvl.checkpoint.weight_format import Codes, Weight, WeightFormat, flat_shape
from internvl.errors import CheckpointError

_CODES, _SCALES, _LOWS = ".codes", ".scales", ".lows"


def is_coded(spec: TensorSpec, form: WeightFormat) -> bool:
    """Whether a checkpoint of this format holds codes of this tensor."""
    return form.levels is not None and spec.is_matrix


def stored_specs(spec: TensorSpec, form: WeightFormat) -> tuple[TensorSpec, ...]:
    """The tensors that stand for one of the model's."""
    if not is_coded(spec, form):
        return (spec,)
    outputs, inputs = flat_shape(spec.shape)
    group = form.group(inputs)
    groups = -(-inputs // group)
    width = group // 2 if form is WeightFormat.W4 else group
    return (
        TensorSpec(spec.name + _CODES, (outputs, groups, width), TensorKind.CODES),
        TensorSpec(spec.name + _SCALES, (outputs, groups), TensorKind.FACTOR),
        TensorSpec(spec.name + _LOWS, (outputs, groups), TensorKind.FACTOR),
    )


def stored_parts(name: str, codes: Codes) -> Iterator[tuple[str, NDArray[Any]]]:
    """The same tensors filled, in the same order."""
    yield name + _CODES, codes.codes
    yield name + _SCALES, codes.scales
    yield name + _LOWS, codes.lows


def assembled(
    tensors: Iterable[tuple[str, NDArray[Any]]], specs: Mapping[str, TensorSpec], form: WeightFormat
) -> Iterator[tuple[str, Weight]]:
    """Put stored tensors together, whatever their order, as the tensors of the model that `specs` names.

    Raises:
        CheckpointError: a code beyond the format's levels, which a product would get wrong without a word.
    """
    parts: dict[str, dict[str, NDArray[Any]]] = {}
    for stored, array in tensors:
        name, _, part = stored.rpartition(".")
        if stored in specs or name not in specs:
            yield stored, array
            continue
        held = parts.setdefault(name, {})
        held[part] = array
        if len(held) == len((_CODES, _SCALES, _LOWS)):
            yield (
                name,
                _checked(name, Codes(form, specs[name].shape, held["codes"], held["scales"], held["lows"])),
            )
            del parts[name]


def _checked(name: str, codes: Codes) -> Codes:
    levels = codes.form.levels
    if codes.form is not WeightFormat.W4 and levels is not None and codes.codes.max(initial=0) > levels:
        raise CheckpointError(
            f"{name}{_CODES}: a code of {codes.codes.max()}, where {levels} is the greatest"
        )
    return codes
