"""The vision side against transformers' InternVL vision model, stage by stage and as a whole."""

from __future__ import annotations

import numpy as np
import pytest
from parity_oracles import VisionOracle, random_weights, small_config, vision_part

from internvl.checkpoint.tensor_specs import Part
from kernels.dispatch import open_ops
from kernels.runtime import CPU
from kernels.weights import load_weights, specs_of
from vision_service.model.encoder import VisionEncoder
from vision_service.model.tower import VisionTower

ODD_SHAPES = {
    "300M-like": {},
    "odd-heads": {"hidden_size": 60, "num_attention_heads": 5, "intermediate_size": 37},
    "one-head": {"hidden_size": 20, "num_attention_heads": 1, "num_hidden_layers": 1},
    "6B-like": {
        "hidden_size": 75,
        "num_attention_heads": 5,
        "norm_type": "rms_norm",
        "qk_normalization": True,
        "qkv_bias": False,
    },
    "qk-norm-only": {"qk_normalization": True},
    "no-qkv-bias": {"qkv_bias": False},
    "other-patch": {"image_size": 60, "patch_size": 10},
}


def random_tiles(count: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, side, side), dtype=np.float32)


@pytest.mark.parametrize("shape", ODD_SHAPES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_encoder_equals_oracle(shape, seed, assert_parity):
    config = small_config(vision=ODD_SHAPES[shape])
    weights = random_weights(config, seed)
    tiles = random_tiles(3, config.vision.image_size, seed)

    ours = VisionEncoder.load(vision_part(weights), config).encode(tiles)

    assert ours.shape == (3, config.tokens_per_tile, config.llm.hidden_size)
    assert ours.dtype == np.float32
    assert_parity("vision: tiles to visual tokens", ours, VisionOracle(config, weights).encode(tiles))


@pytest.mark.parametrize("shape", ["300M-like", "6B-like"])
@pytest.mark.parametrize("layer", [0, 1, 2, 3, -1, -2, -4])
def test_selected_layer_equals_oracle(shape, layer, assert_parity):
    config = small_config(vision=ODD_SHAPES[shape], select_layer=layer)
    weights = random_weights(config, seed=4)
    tiles = random_tiles(2, config.vision.image_size)
    ops = open_ops(CPU)

    specs = specs_of(config, Part.VISION, Part.PROJECTOR)
    tower = VisionTower(load_weights(vision_part(weights), specs, ops), config, ops)

    oracle = VisionOracle(config, weights)
    states = oracle.hidden_states(tiles)
    assert len(states) == config.vision.num_hidden_layers + 1
    stage = "vision: patch embedding" if layer in (0, -4) else "vision: hidden state of a block"
    assert_parity(stage, ops.to_numpy(tower.forward(tiles)), states[layer])
    encoder = VisionEncoder.load(vision_part(weights), config)
    assert_parity("vision: tiles to visual tokens", encoder.encode(tiles), oracle.encode(tiles))


@pytest.mark.parametrize("side", [28, 84, 140])
def test_other_grid_resamples_positions_as_oracle(side, assert_parity):
    config = small_config()
    weights = random_weights(config, seed=5)
    # Positions of a trained size, or the resampling would hardly show.
    weights["vision_model.embeddings.position_embedding"] *= 50
    tiles = random_tiles(2, side)

    ours = VisionEncoder.load(vision_part(weights), config).encode(tiles)

    assert_parity("vision: resampled positions", ours, VisionOracle(config, weights).encode(tiles))


@pytest.mark.parametrize("shape", ["300M-like", "6B-like"])
def test_bfloat16_weights_equal_oracle_with_the_same_rounding(shape, assert_parity):
    config = small_config(vision=ODD_SHAPES[shape])
    weights = random_weights(config, seed=6, dtype="bfloat16")
    tiles = random_tiles(2, config.vision.image_size)

    ours = VisionEncoder.load(vision_part(weights), config).encode(tiles)

    assert_parity("vision: bfloat16 weights", ours, VisionOracle(config, weights).encode(tiles))


def test_tiles_do_not_see_one_another(assert_parity):
    config = small_config()
    encoder = VisionEncoder.load(vision_part(random_weights(config, seed=7)), config)
    tiles = random_tiles(5, config.vision.image_size)

    alone = np.concatenate([encoder.encode(tiles[i : i + 1]) for i in range(5)])

    assert_parity("vision: batch equals single tiles", encoder.encode(tiles), alone)


@pytest.mark.parametrize(
    "name",
    [
        "vision_model.embeddings.class_embedding",
        "vision_model.embeddings.position_embedding",
        "vision_model.embeddings.patch_embedding.bias",
        "vision_model.encoder.layers.0.attn.qkv.bias",
        "vision_model.encoder.layers.1.attn.q_norm.weight",
        "vision_model.encoder.layers.1.attn.proj.weight",
        "vision_model.encoder.layers.2.norm2.weight",
        "vision_model.encoder.layers.2.ls1",
        "mlp1.0.bias",
        "mlp1.3.weight",
    ],
)
def test_one_wrong_tensor_breaks_parity(name, assert_breaks_parity):
    config = small_config(vision={"qk_normalization": True})
    weights = random_weights(config, seed=8)
    tiles = random_tiles(2, config.vision.image_size)
    oracle = VisionOracle(config, weights).encode(tiles)

    weights[name] = weights[name] + np.linspace(0, 0.5, weights[name].size).reshape(weights[name].shape)

    assert_breaks_parity(VisionEncoder.load(vision_part(weights), config).encode(tiles), oracle)
