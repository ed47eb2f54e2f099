"""A whole random checkpoint: config.json, weights and, where it can be made up, the tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from internvl.checkpoint.progress import ProgressHook
from internvl.checkpoint.random_weights import random_tensors
from internvl.checkpoint.synthetic_tokenizer import can_make_tokenizer, write_tokenizer
from internvl.checkpoint.tensor_specs import expected_tensors
from internvl.checkpoint.writer import WriteOptions, write_weights
from internvl.errors import CheckpointError
from internvl.model_config import parse_model_config


def write_random_checkpoint(
    folder: Path,
    raw_config: Mapping[str, Any],
    *,
    seed: int = 0,
    dtype: str | None = None,
    options: WriteOptions | None = None,
    progress: ProgressHook | None = None,
) -> bool:
    """Write `raw_config` and random weights for it into an empty folder.

    Args:
        raw_config: the parsed config.json of the model to imitate.
        seed: the same seed and config give the same weights in every layout and file format.
        dtype: bfloat16, float16 or float32; default: the config's torch_dtype.
        options: layout and file format; default: as released.

    Returns:
        Whether tokenizer files were made up too. Their form is known for Phi-3 only.

    Raises:
        ConfigError: the config is incomplete.
        CheckpointError: the folder is not empty, or the disk is too small.
    """
    config = parse_model_config(raw_config)
    dtype = dtype or config.torch_dtype
    require_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw_config, indent=2) + "\n", encoding="utf-8")
    has_tokenizer = can_make_tokenizer(config.llm)
    if has_tokenizer:
        write_tokenizer(folder, config.llm)
    specs = list(expected_tensors(config).values())
    tensors = random_tensors(specs, seed, dtype)
    write_weights(folder, [(spec, dtype) for spec in specs], tensors, options or WriteOptions(), progress)
    return has_tokenizer


def require_empty(folder: Path) -> None:
    """Raises CheckpointError if the folder holds anything, so that no run mixes its files with others."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder.name}: exists and is not an empty folder")
