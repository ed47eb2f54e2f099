"""Writing checkpoints, one tensor at a time, in either layout and either file format."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from internvl.atomic_file import atomic_write
from internvl.checkpoint.layout import Layout, reorient, stored_shape
from internvl.checkpoint.progress import ProgressHook
from internvl.checkpoint.shards import (
    PDPARAMS_FILE,
    PDPARAMS_INDEX,
    SAFETENSORS_FILE,
    SAFETENSORS_INDEX,
    TensorEntry,
)
from internvl.checkpoint.tensor_specs import TensorSpec
from internvl.errors import CheckpointError

NamedArray = tuple[str, NDArray[Any]]
TypedSpec = tuple[TensorSpec, str]


class FileFormat(StrEnum):
    SAFETENSORS = "safetensors"
    PDPARAMS = "pdparams"


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How the weights are laid out on disk. The default is what OpenGVLab releases.

    Attributes:
        max_shard_bytes: size at which a new file starts; a larger single tensor gets a file of its own.
    """

    layout: Layout = Layout.HF
    file_format: FileFormat = FileFormat.SAFETENSORS
    max_shard_bytes: int = 5_000_000_000


def write_weights(
    folder: Path,
    specs: Sequence[TypedSpec],
    tensors: Iterable[NamedArray],
    options: WriteOptions,
    progress: ProgressHook | None = None,
) -> None:
    """Write the weight files and, if there are several, their index.

    Args:
        specs: what is to come, in the order in which `tensors` yields it: spec, and dtype on disk
            (bfloat16, float16, float32, or uint8 for codes).
        tensors: arrays in Hugging Face orientation; each is cast to its dtype on disk.

    Raises:
        CheckpointError: the disk is too small, or a tensor is not the one announced.
    """
    if options.file_format is FileFormat.PDPARAMS and options.layout is not Layout.PADDLE:
        raise CheckpointError("pdparams files always hold the Paddle layout")
    folder.mkdir(parents=True, exist_ok=True)
    shards = _plan(specs, options)
    total = sum(entry.nbytes for shard in shards for entry in shard)
    _check_space(folder, total)
    names = _file_names(options.file_format, len(shards))
    arrays = _stored(tensors, specs, options.layout, total, progress)
    for name, shard in zip(names, shards, strict=True):
        _write_shard(folder / name, shard, islice(arrays, len(shard)), options)
    if len(shards) > 1:
        _write_index(folder, names, shards, options.file_format)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of bfloat16 (ml_dtypes), float16, float32 or uint8."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def _plan(specs: Sequence[TypedSpec], options: WriteOptions) -> list[list[TensorEntry]]:
    """Fill files in order; a file ends before the tensor that would overflow it."""
    shards: list[list[TensorEntry]] = [[]]
    size = 0
    for spec, dtype in specs:
        nbytes = spec.parameters * numpy_dtype(dtype).itemsize
        if shards[-1] and size + nbytes > options.max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(TensorEntry(spec.name, stored_shape(spec, options.layout), dtype, nbytes))
        size += nbytes
    return shards


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(f"not enough disk space: needs {needed} bytes, {free} are free")


def _file_names(file_format: FileFormat, count: int) -> list[str]:
    whole = SAFETENSORS_FILE if file_format is FileFormat.SAFETENSORS else PDPARAMS_FILE
    if count == 1:
        return [whole]
    stem, suffix = whole.split(".")
    return [f"{stem}-{number:05d}-of-{count:05d}.{suffix}" for number in range(1, count + 1)]


def _stored(
    tensors: Iterable[NamedArray],
    specs: Sequence[TypedSpec],
    layout: Layout,
    total: int,
    progress: ProgressHook | None,
) -> Iterator[NamedArray]:
    """Check, cast and turn each tensor into what its file holds."""
    done = 0
    for (spec, dtype), (name, array) in zip(specs, tensors, strict=True):
        if (name, array.shape) != (spec.name, spec.shape):
            raise CheckpointError(
                f"expected {spec.name} {list(spec.shape)}, was given {name} {list(array.shape)}"
            )
        stored = np.ascontiguousarray(reorient(array.astype(numpy_dtype(dtype), copy=False), spec, layout))
        yield name, stored
        done += stored.nbytes
        if progress is not None:
            progress(done, total)


def _write_shard(
    path: Path, entries: Sequence[TensorEntry], arrays: Iterable[NamedArray], options: WriteOptions
) -> None:
    """A killed run leaves no file that looks whole."""
    with atomic_write(path) as file:
        if options.file_format is FileFormat.SAFETENSORS:
            _write_safetensors(file, entries, arrays, options.layout)
        else:
            _write_pdparams(file, arrays)


_DTYPE_CODES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "uint8": "U8"}


def _write_safetensors(
    file: BinaryIO, entries: Sequence[TensorEntry], arrays: Iterable[NamedArray], layout: Layout
) -> None:
    """The library's own writer needs every tensor of a file at once; this one needs their sizes only.

    Format: 8 bytes header length (little-endian), a JSON header padded with spaces to a multiple of 8,
    then the data back to back.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt" if layout is Layout.HF else "pd"}}
    offset = 0
    for entry in entries:
        header[entry.name] = {
            "dtype": _DTYPE_CODES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [offset, offset + entry.nbytes],
        }
        offset += entry.nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write(len(encoded).to_bytes(8, "little"))
    file.write(encoded)
    for _, array in arrays:
        file.write(array.view(np.uint8).data)


def _write_pdparams(file: BinaryIO, arrays: Iterable[NamedArray]) -> None:
    """What `paddle.save` writes for a state dict: bfloat16 as uint16 bits, and a table of names."""
    content: dict[str, Any] = {
        name: array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array for name, array in arrays
    }
    content["StructuredToParameterName@@"] = {name: name for name in content}
    pickle.dump(content, file, protocol=4)


def _write_index(
    folder: Path, names: Sequence[str], shards: Sequence[Sequence[TensorEntry]], file_format: FileFormat
) -> None:
    total = sum(entry.nbytes for shard in shards for entry in shard)
    weight_map = {entry.name: name for name, shard in zip(names, shards, strict=True) for entry in shard}
    index = SAFETENSORS_INDEX if file_format is FileFormat.SAFETENSORS else PDPARAMS_INDEX
    content = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / index).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
