"""Weights that do not fit a model are all named, in either tier, before anything runs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from parity_oracles import decoder_part, random_weights, small_config, vision_part

from internvl.errors import CheckpointError, InternalError
from llm_service.model.runner import ModelRunner
from vision_service.model.encoder import VisionEncoder

CONFIG = small_config()
LOADERS = {"vision": (VisionEncoder, vision_part), "decoder": (ModelRunner, decoder_part)}


@pytest.mark.parametrize(
    ("tier", "missing", "bent"),
    [
        ("vision", "vision_model.encoder.layers.2.ls2", "mlp1.1.weight"),
        ("decoder", "language_model.model.norm.weight", "language_model.lm_head.weight"),
    ],
)
def test_every_fault_is_listed(tier, missing, bent):
    model, part = LOADERS[tier]
    weights = dict(part(random_weights(CONFIG, seed=0)))
    del weights[missing]
    weights[bent] = weights[bent].T
    weights["vision_model.head.weight"] = np.zeros((2, 2), dtype=np.float32)

    with pytest.raises(CheckpointError) as caught:
        model.load(weights.items(), CONFIG)

    rows, columns = weights[bent].shape
    assert str(caught.value).splitlines() == [
        "3 tensor(s) do not fit the model:",
        f"  mis-shaped: {bent} is [{rows}, {columns}], expected [{columns}, {rows}]",
        "  surplus: vision_model.head.weight [2, 2]",
        next(line for line in str(caught.value).splitlines() if line.startswith(f"  missing: {missing} [")),
    ]


@pytest.mark.parametrize("tier", LOADERS)
def test_repeated_tensor_is_an_error(tier):
    model, part = LOADERS[tier]
    weights = list(part(random_weights(CONFIG, seed=0)))
    with pytest.raises(CheckpointError, match=f"repeated: {weights[3][0]}"):
        model.load([*weights, weights[3]], CONFIG)


def test_derived_rotary_buffers_are_tolerated():
    weights = dict(decoder_part(random_weights(CONFIG, seed=0)))
    weights["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(6, dtype=np.float32)
    ModelRunner.load(weights.items(), CONFIG)


def test_blocks_behind_the_selected_layer_are_checked_but_not_held():
    config = small_config(select_layer=1)
    weights = dict(vision_part(random_weights(config, seed=0)))
    VisionEncoder.load(weights.items(), config)
    del weights["vision_model.encoder.layers.2.ls2"]
    with pytest.raises(CheckpointError, match=r"missing: vision_model\.encoder\.layers\.2\.ls2"):
        VisionEncoder.load(weights.items(), config)


def test_arrays_are_let_go_one_by_one():
    """No array is held while the next one is drawn."""
    alive = 0

    def stream():
        nonlocal alive
        for name, array in decoder_part(random_weights(CONFIG, seed=0)):
            alive += 1
            assert alive == 1
            yield name, array
            alive -= 1

    ModelRunner.load(stream(), CONFIG)
    assert alive == 0


LOAD_AND_MEASURE = """
from dataclasses import replace
import kernels.ops
import ml_dtypes
import numpy as np
from internvl.checkpoint.series import series_config
from internvl.checkpoint.tensor_specs import Part, expected_tensors
from internvl.model_config import parse_model_config
from llm_service.model.runner import ModelRunner

full = parse_model_config(series_config("InternVL2-4B"))
config = replace(full, llm=replace(full.llm, num_hidden_layers=1, vocab_size=8000))
specs = [spec for spec in expected_tensors(config).values() if spec.part is Part.DECODER]
def peak():
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
base = peak()
runner = ModelRunner.load(((spec.name, np.zeros(spec.shape, ml_dtypes.bfloat16)) for spec in specs), config)
print(peak() - base, 4 * sum(spec.parameters for spec in specs), 2 * max(spec.parameters for spec in specs))
"""


def test_loading_peaks_at_the_weights_held_and_one_tensor_of_the_file():
    """650 MB in float32: a second copy of the largest matrix (200 MB) would show."""
    command = [sys.executable, "-c", LOAD_AND_MEASURE]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    used, held, open_tensor = map(int, result.stdout.splitlines()[-1].split())  # a log may come before
    assert held <= used <= held + open_tensor + (64 << 20)


@pytest.mark.parametrize(
    "shape", [(1, 3, 56, 42), (1, 4, 56, 56), (3, 56, 56), (0, 3, 56, 56), (1, 3, 42, 42)]
)
def test_tiles_of_a_wrong_shape_are_refused(shape):
    encoder = VisionEncoder.load(vision_part(random_weights(CONFIG, seed=0)), CONFIG)
    with pytest.raises(InternalError, match="tiles: expected"):
        encoder.encode(np.zeros(shape, dtype=np.float32))
