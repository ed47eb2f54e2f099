"""Whatever layout a checkpoint is in, it is the same model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from internvl.checkpoint import FileFormat, Layout, Part, WriteOptions, open_checkpoint
from internvl.checkpoint.conversion import convert_checkpoint
from internvl.model_config import read_model_config
from llm_service.model.runner import ModelRunner
from tests.unit.paged_samples import Pages
from vision_service.model.encoder import VisionEncoder

NANO = Path(__file__).parents[2] / "models" / "nano"
VISION = (Part.VISION.value, Part.PROJECTOR.value)


def outputs(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Visual embeddings of two fixed tiles, and logits of a fixed prompt."""
    config = read_model_config(folder)
    checkpoint = open_checkpoint(folder, config)
    side = config.force_image_size
    tiles = np.random.default_rng(5).normal(size=(2, 3, side, side)).astype(np.float32)
    embeddings = VisionEncoder.load(checkpoint.tensors(VISION), config).encode(tiles)
    runner = ModelRunner.load(checkpoint.tensors(Part.DECODER.value), config)
    prompt = np.arange(1, 40, dtype=np.int64)
    return embeddings, Pages(runner).sequence(64).last(prompt)


@pytest.mark.parametrize("file_format", [FileFormat.SAFETENSORS, FileFormat.PDPARAMS])
def test_both_layouts_give_equal_embeddings_and_logits(file_format: FileFormat, tmp_path: Path) -> None:
    converted = tmp_path / "paddle"
    convert_checkpoint(NANO, converted, WriteOptions(layout=Layout.PADDLE, file_format=file_format))
    for ours, theirs in zip(outputs(NANO), outputs(converted), strict=True):
        assert np.array_equal(ours, theirs)
