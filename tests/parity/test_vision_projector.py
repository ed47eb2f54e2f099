"""Pixel shuffle against a formula written per token, and the projector against transformers'."""

from __future__ import annotations

import numpy as np
import pytest
from parity_oracles import VisionOracle, random_weights, small_config, vision_part

from internvl.checkpoint.tensor_specs import Part
from internvl.errors import ConfigError
from kernels.dispatch import open_ops
from kernels.runtime import CPU
from kernels.weights import load_weights, specs_of
from vision_service.model.encoder import VisionEncoder
from vision_service.model.projector import Projector, pixel_shuffle


def shuffled_by_hand(patches: np.ndarray, factor: int, version: str) -> np.ndarray:
    """Token (i, j) holds its factor x factor patches, row by row; v1 lists the tokens column by column."""
    side = round(patches.shape[1] ** 0.5)
    cells = range(side // factor)
    order = (
        [(i, j) for i in cells for j in cells] if version == "v2" else [(i, j) for j in cells for i in cells]
    )
    tokens = []
    for i, j in order:
        inside = [(i * factor + di) * side + j * factor + dj for di in range(factor) for dj in range(factor)]
        tokens.append(patches[:, inside].reshape(len(patches), -1))
    return np.stack(tokens, axis=1)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(("side", "factor"), [(2, 2), (4, 2), (6, 3), (10, 2), (5, 1)])
def test_pixel_shuffle_equals_formula(version, side, factor):
    patches = np.random.default_rng(side).standard_normal((2, side * side, 5), dtype=np.float32)
    ops = open_ops(CPU)

    ours = ops.to_numpy(pixel_shuffle(ops.tensor(patches), factor, version))

    np.testing.assert_array_equal(ours, shuffled_by_hand(patches, factor, version))


def test_versions_differ():
    patches = np.random.default_rng(0).standard_normal((1, 16, 3), dtype=np.float32)
    assert not np.array_equal(shuffled_by_hand(patches, 2, "v1"), shuffled_by_hand(patches, 2, "v2"))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_encoder_applies_the_configured_version(version, assert_parity):
    config = small_config(ps_version=version)
    weights = random_weights(config, seed=1)
    tiles = np.random.default_rng(1).standard_normal((2, 3, 56, 56), dtype=np.float32)
    oracle = VisionOracle(config, weights)
    patches = oracle.hidden_states(tiles)[-1][:, 1:]

    ours = VisionEncoder.load(vision_part(weights), config).encode(tiles)

    expected = oracle.project(shuffled_by_hand(patches, 2, version))
    assert_parity(f"vision: pixel shuffle {version} and projector", ours, expected)


@pytest.mark.parametrize("seed", [0, 1])
def test_projector_equals_oracle(seed, assert_parity):
    config = small_config(llm={"hidden_size": 36, "num_attention_heads": 3, "num_key_value_heads": 3})
    weights = random_weights(config, seed)
    ops = open_ops(CPU)
    specs = specs_of(config, Part.VISION, Part.PROJECTOR)
    projector = Projector(load_weights(vision_part(weights), specs, ops), ops)
    # Small values, where the norm's eps shows.
    tokens = np.random.default_rng(seed).standard_normal(
        (2, 4, config.projector_input_size), dtype=np.float32
    )
    tokens *= 0.003

    ours = ops.to_numpy(projector.forward(ops.tensor(tokens)))

    assert_parity("vision: projector", ours, VisionOracle(config, weights).project(tokens))


def test_ratio_that_does_not_divide_the_grid_is_refused():
    config = small_config(vision={"image_size": 70})
    with pytest.raises(ConfigError, match=r"downsample_ratio: 0\.5 does not divide a grid of 5"):
        VisionEncoder.load(vision_part(random_weights(config, seed=0)), config)
