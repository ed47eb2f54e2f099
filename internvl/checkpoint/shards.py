"""The files that hold the weights: finding them in a folder, and what each kind must offer."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from internvl.errors import CheckpointError

SAFETENSORS_FILE = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
PDPARAMS_FILE = "model_state.pdparams"
PDPARAMS_INDEX = "model_state.pdparams.index.json"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor as a file holds it: `shape` as stored, `dtype` a numpy name such as bfloat16."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)


class Shard(Protocol):
    """One file of weights. Its table is read at construction, its data only by `read`."""

    @property
    def name(self) -> str:
        """File name without folder."""

    @property
    def format(self) -> str:
        """What the container says about its writer: pt, pd, np, pdparams, or an empty string."""

    @property
    def entries(self) -> Mapping[str, TensorEntry]:
        """Every tensor of the file, in the order of its data."""

    def read(self, names: Collection[str]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield the named tensors as stored, in file order, and let go of the file afterwards."""

    def forget(self, names: Collection[str]) -> None:
        """Have the system give up the memory that it keeps of these tensors for the next reader."""


@dataclass(frozen=True, slots=True)
class ShardFiles:
    """The files of one checkpoint, and the file each tensor should be in (empty without an index)."""

    paths: tuple[Path, ...]
    weight_map: Mapping[str, str]


def find_shard_files(folder: Path) -> ShardFiles:
    """Find the weights of a checkpoint folder.

    Raises:
        CheckpointError: no weights, more than one set of them, or an index that cannot be followed.
    """
    known = (SAFETENSORS_FILE, SAFETENSORS_INDEX, PDPARAMS_FILE, PDPARAMS_INDEX)
    found = [name for name in known if (folder / name).is_file()]
    if not found:
        raise CheckpointError(f"no weights in the folder; looked for {', '.join(known)}")
    if len(found) > 1:
        raise CheckpointError(f"more than one set of weights in the folder: {', '.join(found)}; keep one")
    if found[0].endswith(".index.json"):
        return _follow_index(folder / found[0])
    return ShardFiles((folder / found[0],), {})


def _follow_index(index: Path) -> ShardFiles:
    weight_map = _weight_map(index)
    names = sorted(set(weight_map.values()))
    foreign = [name for name in names if Path(name).name != name or name.startswith(".")]
    if foreign:
        raise CheckpointError(f"{index.name}: shard names must be plain file names, found {foreign[0]!r}")
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent:
        raise CheckpointError(f"{index.name}: names {len(absent)} missing files: {', '.join(absent)}")
    return ShardFiles(tuple(index.parent / name for name in names), weight_map)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{index.name}: not valid JSON ({error})") from None
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index.name}: has no weight_map")
    if not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index.name}: weight_map must map tensor names to file names")
    return weight_map
