"""Small checkpoints of every architecture of the series, for the checkpoint tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from internvl.checkpoint import (
    FileFormat,
    Layout,
    WriteOptions,
    open_checkpoint,
    series_config,
    write_random_checkpoint,
)
from internvl.model_config import read_model_config

PADDLE = WriteOptions(layout=Layout.PADDLE)
PDPARAMS = WriteOptions(layout=Layout.PADDLE, file_format=FileFormat.PDPARAMS)


def small_config(name: str = "InternVL2-4B") -> dict[str, Any]:
    """The config.json of `name` with its widths, depths and vocabulary cut to a few dozen."""
    raw = series_config(name)
    raw["vision_config"] |= {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 56,
    }
    raw["llm_config"] |= {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4 if name == "InternVL2-4B" else 2,
        "intermediate_size": 80,
        "vocab_size": 120,
    }
    if name == "InternVL2-4B":
        raw["llm_config"]["rope_scaling"] |= {"short_factor": [1.0] * 6, "long_factor": [2.0] * 6}
    raw["force_image_size"] = raw["vision_config"]["image_size"]
    return raw


def write_sample(folder: Path, options: WriteOptions | None = None, name: str = "InternVL2-4B") -> Path:
    """A small random checkpoint; equal weights whatever the options."""
    write_random_checkpoint(folder, small_config(name), seed=7, options=options)
    return folder


def read_all(folder: Path) -> dict[str, NDArray[Any]]:
    """Every tensor, in Hugging Face orientation."""
    return dict(open_checkpoint(folder, read_model_config(folder)).tensors())


def assert_bit_equal(first: dict[str, NDArray[Any]], second: dict[str, NDArray[Any]]) -> None:
    """The same names, and for each the same dtype, shape and bytes."""
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.dtype == second[name].dtype, name
        assert np.array_equal(array.view(np.uint8), np.ascontiguousarray(second[name]).view(np.uint8)), name
