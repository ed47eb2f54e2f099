"""Writing a checkpoint whose matrices are held in less."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
from numpy.typing import NDArray

from internvl.checkpoint.conversion import companions, refuse_codes
from internvl.checkpoint.progress import ProgressHook
from internvl.checkpoint.quantised import stored_parts, stored_specs
from internvl.checkpoint.random_checkpoint import require_empty
from internvl.checkpoint.read_ahead import read_ahead
from internvl.checkpoint.reader import Checkpoint, open_checkpoint
from internvl.checkpoint.tensor_specs import TensorKind
from internvl.checkpoint.weight_format import WeightFormat, quantised
from internvl.checkpoint.writer import TypedSpec, WriteOptions, write_weights
from internvl.model_config import WEIGHT_FORMAT_VERSION, load_raw_config, read_model_config


def quantise_checkpoint(
    source: Path,
    target: Path,
    form: WeightFormat,
    options: WriteOptions | None = None,
    progress: ProgressHook | None = None,
) -> tuple[int, int]:
    """Write the checkpoint of `source` into the empty folder `target`, its matrices in `form`.

    Everything else is kept bit by bit. What is computed from the copy equals, to the last bit, what a service
    computes from the source when told the same format.

    Args:
        form: bf16, or one with codes.
        options: size of files; the layout is Hugging Face's.

    Returns:
        Bytes of all tensors before and after.

    Raises:
        ConfigError, CheckpointError: the source is not sound or was written by this function, or the target
            is not empty or too small.
    """
    config = read_model_config(source)
    refuse_codes(config)
    checkpoint = open_checkpoint(source, config)
    require_empty(target)
    specs = list(_specs(checkpoint, form))
    target.mkdir(parents=True, exist_ok=True)
    write_weights(target, specs, _tensors(checkpoint, form), options or WriteOptions(), progress)
    for path in companions(source):
        shutil.copyfile(path, target / path.name)
    raw = load_raw_config(source / "config.json")
    raw["weight_format"] = {"name": form.value, "version": WEIGHT_FORMAT_VERSION}
    (target / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    written = open_checkpoint(target, read_model_config(target))
    return _bytes(checkpoint), _bytes(written)


def _bytes(checkpoint: Checkpoint) -> int:
    return sum(entry.nbytes for entry in checkpoint.entries())


def _specs(checkpoint: Checkpoint, form: WeightFormat) -> Iterator[TypedSpec]:
    for spec, entry in zip(checkpoint.specs(), checkpoint.entries(), strict=True):
        short = form is WeightFormat.BFLOAT16 and spec.is_matrix
        for stored in stored_specs(spec, form):
            codes, factor = stored.kind is TensorKind.CODES, stored.kind is TensorKind.FACTOR
            yield stored, "uint8" if codes else "bfloat16" if factor or short else entry.dtype


def _tensors(checkpoint: Checkpoint, form: WeightFormat) -> Iterator[tuple[str, NDArray[Any]]]:
    matrices = {spec.name for spec in checkpoint.specs() if spec.is_matrix}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "quantise") as executor:
        for name, array in read_ahead(checkpoint.tensors()):
            if name not in matrices:
                yield name, array
            elif form.levels is None:
                yield name, array.astype(ml_dtypes.bfloat16)
            else:
                yield from stored_parts(name, quantised(array, form, executor))
