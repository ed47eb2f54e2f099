"""Parity at the widths of InternVL2-4B: the whole vision side, and the decoder with two of its 32 layers.

One model is in memory at a time and weights are drawn as they are loaded, which keeps the run below 6 GB.
"""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from parity_oracles import RELEASED, RandomWeights, VisionOracle, decoder_oracle, decoder_part, vision_part

from llm_service.model.rope import regime_for
from llm_service.model.runner import ModelRunner
from tests.unit.paged_samples import Pages
from vision_service.model.encoder import VisionEncoder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# bfloat16, as released: both sides compute in float32 on the same rounded weights.
TWO_LAYERS = replace(RELEASED, llm=replace(RELEASED.llm, num_hidden_layers=2))


def test_vision_side_at_full_depth(assert_parity):
    weights = RandomWeights(RELEASED, seed=20, dtype="bfloat16")
    tiles = np.random.default_rng(20).standard_normal((2, 3, 448, 448), dtype=np.float32)

    ours = VisionEncoder.load(vision_part(weights), RELEASED).encode(tiles)
    gc.collect()

    assert ours.shape == (2, 256, 3072)
    assert_parity(
        "full width: 24-layer tower and projector", ours, VisionOracle(RELEASED, weights).encode(tiles)
    )


@pytest.fixture(scope="module")
def decoded() -> dict[str, np.ndarray]:
    """Our logits: a prompt of 60 tokens at once and token by token, and the last row of a prompt of 4,097."""
    runner = ModelRunner.load(decoder_part(RandomWeights(TWO_LAYERS, seed=21, dtype="bfloat16")), TWO_LAYERS)
    ids = prompt(60)
    pages = Pages(runner)
    sequence = pages.sequence(60)
    steps = [sequence.last(ids[:50])]
    steps += [sequence.last(ids[i : i + 1]) for i in range(50, 60)]
    return {
        "prompt": pages.sequence(60).all(ids),
        "decode": np.concatenate(steps),
        "long": pages.sequence(4097, regime_for(4097, TWO_LAYERS)).last(prompt(4097)),
    }


def prompt(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(0, TWO_LAYERS.llm.vocab_size, length)


@torch.inference_mode()
def test_decoder_at_full_width(decoded, assert_parity):
    gc.collect()
    weights = RandomWeights(TWO_LAYERS, seed=21, dtype="bfloat16")
    # Not eager: its scores alone would take 4 GB at 4,097 tokens.
    oracle = decoder_oracle(TWO_LAYERS.llm, weights, attention="sdpa")

    expected = oracle(torch.from_numpy(prompt(60))[None]).logits[0].numpy()
    assert_parity("full width: prompt to logits", decoded["prompt"], expected)
    assert_parity("full width: decode with cache", decoded["decode"], expected[49:])
    long = oracle(torch.from_numpy(prompt(4097))[None], logits_to_keep=1, use_cache=False).logits[0].numpy()
    assert_parity("full width: prompt of 4097 tokens", decoded["long"], long)
