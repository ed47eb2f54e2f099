"""A whole random checkpoint: config.json, weights and, where it can be made up, the tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from internvl.checkpoint.progress import ProgressHook
from internvl.checkpoint.random_weights import random_tensors
from internvl.checkpoint.tensor_specs import expected_tensors
from internvl.checkpoint.writer import WriteOptions, write_weights
from internvl.errors import CheckpointError
from internvl.model_config import parse_model_config


def write_random_checkpoint(
    folder: Path,
    raw_config: Mapping[str, Any],
    *,
    seed: int = 0,
    options: WriteOptions | None = None,
    progress: ProgressHook | None = None,
) -> None:
    """Write `raw_config` and random weights for it into an empty folder.

    Args:
        raw_config: the parsed config.json of the model to imitate.
        seed: the same seed and config give the same weights in every layout and file format.
        options: layout, file format and dtype; default: as released, in the config's torch_dtype.

    Raises:
        ConfigError: the config is incomplete.
        CheckpointError: the folder is not empty, or the disk is too small.
    """
    config = parse_model_config(raw_config)
    options = options or WriteOptions(dtype=config.torch_dtype)
    require_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw_config, indent=2) + "\n", encoding="utf-8")
    specs = list(expected_tensors(config).values())
    write_weights(folder, specs, random_tensors(specs, seed, options.dtype), options, progress)


def require_empty(folder: Path) -> None:
    """Raises CheckpointError if the folder holds anything, so that no run mixes its files with others."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder.name}: exists and is not an empty folder")
