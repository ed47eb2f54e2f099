"""Rewriting a checkpoint in the other layout, file format or dtype."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from internvl.atomic_file import PARTIAL
from internvl.checkpoint.progress import ProgressHook
from internvl.checkpoint.random_checkpoint import require_empty
from internvl.checkpoint.reader import open_checkpoint
from internvl.checkpoint.writer import WriteOptions, write_weights
from internvl.errors import CheckpointError
from internvl.model_config import InternVLConfig, read_model_config

_WEIGHT_SUFFIXES = (".safetensors", ".pdparams", ".bin", ".index.json", PARTIAL)


def convert_checkpoint(
    source: Path,
    target: Path,
    options: WriteOptions,
    *,
    dtype: str | None = None,
    progress: ProgressHook | None = None,
) -> None:
    """Write the checkpoint of `source` into the empty folder `target`, with its config and tokenizer.

    Args:
        dtype: cast every tensor to bfloat16, float16 or float32; default: keep each as it is, bit by bit.

    Raises:
        ConfigError, CheckpointError: the source is not sound, or the target is not empty or too small.
    """
    config = read_model_config(source)
    refuse_codes(config)
    checkpoint = open_checkpoint(source, config)
    require_empty(target)
    target.mkdir(parents=True, exist_ok=True)
    dtypes = [dtype or entry.dtype for entry in checkpoint.entries()]
    specs = list(zip(checkpoint.specs(), dtypes, strict=True))
    write_weights(target, specs, checkpoint.tensors(), options, progress)
    for path in companions(source):
        shutil.copyfile(path, target / path.name)
    if dtype is not None:
        _declare_dtype(target / "config.json", dtype)


def refuse_codes(config: InternVLConfig) -> None:
    """Raises CheckpointError for what `internvl checkpoint quantize` wrote: it lacks the original numbers."""
    if config.weight_format is not None:
        raise CheckpointError(
            f"the checkpoint was written in {config.weight_format} (weight_format in its config.json); "
            "take the one it was made from"
        )


def companions(folder: Path) -> Iterator[Path]:
    """Everything beside the weights: config, tokenizer, licence."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith(_WEIGHT_SUFFIXES):
            yield path


def _declare_dtype(config: Path, dtype: str) -> None:
    raw: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    raw["torch_dtype"] = dtype
    raw["llm_config"]["torch_dtype"] = dtype
    config.write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
