"""The decoder against transformers' Phi-3: whole prompts, odd shapes, visual tokens, both rope regimes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity_oracles import decoder_oracle, decoder_part, oracle_logits, random_weights, small_config

from internvl.errors import ConfigError
from internvl.model_config import InternVLConfig
from llm_service.model.batch import VisualSpan
from llm_service.model.rope import RopeRegime, regime_for
from llm_service.model.runner import ModelRunner
from tests.unit.paged_samples import Pages

ODD_SHAPES = {
    "phi3-like": {},
    "grouped-queries": {"num_attention_heads": 6, "num_key_value_heads": 2},
    "one-kv-head": {"num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 30},
    "odd-heads": {"hidden_size": 70, "num_attention_heads": 5, "num_key_value_heads": 5},
    "released-heads": {"hidden_size": 192, "num_attention_heads": 2, "num_key_value_heads": 2},
    "odd-widths": {"intermediate_size": 61, "vocab_size": 257, "num_hidden_layers": 1},
    "tied-head": {"tie_word_embeddings": True},
    "plain-rope": {"rope_scaling": None, "rope_theta": 5e5},
    "wide-eps": {"rms_norm_eps": 1e-3},
}


def all_logits(runner: ModelRunner, ids: np.ndarray, regime: RopeRegime, *spans: VisualSpan) -> np.ndarray:
    return Pages(runner).sequence(len(ids), regime).all(ids, *spans)


def random_ids(config: InternVLConfig, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.llm.vocab_size, length)


@pytest.mark.parametrize("shape", ODD_SHAPES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_logits_equal_oracle(shape, seed, assert_parity):
    config = small_config(llm=ODD_SHAPES[shape])
    weights = random_weights(config, seed)
    ids = random_ids(config, 61, seed)
    runner = ModelRunner.load(decoder_part(weights), config)

    logits = all_logits(runner, ids, RopeRegime.SHORT)
    oracle = oracle_logits(decoder_oracle(config.llm, weights), ids)
    assert_parity("decoder: prompt to logits", logits, oracle)
    last = Pages(runner).sequence(61).last(ids)
    assert_parity("decoder: prompt to logits", last, oracle[-1:])


def test_one_token_prompt_equals_oracle(assert_parity):
    config = small_config()
    weights = random_weights(config, seed=3)
    ids = random_ids(config, 1)
    logits = all_logits(ModelRunner.load(decoder_part(weights), config), ids, RopeRegime.SHORT)
    assert_parity(
        "decoder: prompt to logits", logits, oracle_logits(decoder_oracle(config.llm, weights), ids)
    )


@pytest.mark.parametrize("shape", ["phi3-like", "grouped-queries"])
def test_bfloat16_weights_equal_oracle_with_the_same_rounding(shape, assert_parity):
    config = small_config(llm=ODD_SHAPES[shape])
    weights = random_weights(config, seed=4, dtype="bfloat16")
    ids = random_ids(config, 50)
    logits = all_logits(ModelRunner.load(decoder_part(weights), config), ids, RopeRegime.SHORT)
    assert_parity(
        "decoder: bfloat16 weights", logits, oracle_logits(decoder_oracle(config.llm, weights), ids)
    )


def test_visual_tokens_equal_oracle_fed_with_embeddings(assert_parity, assert_breaks_parity):
    config = small_config()
    weights = random_weights(config, seed=5)
    ids = random_ids(config, 40)
    rng = np.random.default_rng(5)
    pictures = [rng.standard_normal((size, config.llm.hidden_size), dtype=np.float32) for size in (4, 4, 9)]
    spans = [VisualSpan(start, rows) for start, rows in zip((0, 4, 25), pictures, strict=True)]
    runner, oracle = ModelRunner.load(decoder_part(weights), config), decoder_oracle(config.llm, weights)

    embeddings = oracle.get_input_embeddings().weight.detach()[torch.from_numpy(ids)].clone()
    for span in spans:
        embeddings[span.offset : span.end] = torch.from_numpy(span.embeddings)
    expected = oracle_logits(oracle, inputs_embeds=embeddings[None])

    assert_parity("decoder: visual tokens", all_logits(runner, ids, RopeRegime.SHORT, *spans), expected)
    swapped = [spans[0], VisualSpan(4, pictures[0]), spans[2]]
    assert_breaks_parity(all_logits(runner, ids, RopeRegime.SHORT, *swapped), expected)


# The head size of the released model, so that all 48 of its factors take part.
LONG = {"hidden_size": 192, "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 1}


@pytest.mark.parametrize("length", [4095, 4096, 4097])
def test_prompts_around_the_trained_length_equal_oracle(length, assert_parity, assert_breaks_parity):
    config = small_config(llm=LONG)
    weights = random_weights(config, seed=length)
    ids = random_ids(config, length)
    runner = ModelRunner.load(decoder_part(weights), config)
    regime = regime_for(length, config)

    logits = all_logits(runner, ids, regime)

    expected = oracle_logits(decoder_oracle(config.llm, weights), ids)
    assert_parity(f"decoder: prompt of {length} tokens", logits, expected)
    assert regime is (RopeRegime.LONG if length > 4096 else RopeRegime.SHORT)
    other = RopeRegime.SHORT if regime is RopeRegime.LONG else RopeRegime.LONG
    assert_breaks_parity(all_logits(runner, ids, other), expected)


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.qkv_proj.weight",
        "model.layers.1.self_attn.o_proj.weight",
        "model.layers.1.mlp.gate_up_proj.weight",
        "model.layers.2.input_layernorm.weight",
        "model.norm.weight",
        "lm_head.weight",
    ],
)
def test_one_wrong_tensor_breaks_parity(name, assert_breaks_parity):
    config = small_config()
    weights = random_weights(config, seed=6)
    ids = random_ids(config, 30)
    oracle = oracle_logits(decoder_oracle(config.llm, weights), ids)

    wrong = weights[f"language_model.{name}"]
    weights[f"language_model.{name}"] = wrong + np.linspace(0, 0.5, wrong.size).reshape(wrong.shape)

    runner = ModelRunner.load(decoder_part(weights), config)
    assert_breaks_parity(all_logits(runner, ids, RopeRegime.SHORT), oracle)


@pytest.mark.parametrize(
    ("llm", "message"),
    [
        ({"architecture": "LlamaForCausalLM"}, "llm_config.architectures: LlamaForCausalLM is not served"),
        ({"num_key_value_heads": 3}, "llm_config.num_key_value_heads: must divide"),
        ({"sliding_window": 2047}, "llm_config.sliding_window: 2047 is below max_position_embeddings"),
    ],
)
def test_decoder_it_cannot_run_is_refused(llm, message):
    config = small_config(llm=llm)
    with pytest.raises(ConfigError, match=message):
        ModelRunner.load(iter(()), config)
