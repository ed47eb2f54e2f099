"""Which tensors a checkpoint must hold, derived from its config alone.

Names and shapes are those of the released Hugging Face files, where a Linear weight is [out, in].
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from internvl.errors import ConfigError
from internvl.model_config import InternVLConfig, LlmConfig, VisionConfig


class TensorKind(Enum):
    """What a tensor is for. Only LINEAR weights change shape between the layouts.

    CODES and FACTOR (a scale or low) stand for matrices where a checkpoint holds codes.
    """

    LINEAR = "linear"
    CONVOLUTION = "convolution"
    EMBEDDING = "embedding"
    GAIN = "gain"
    BIAS = "bias"
    CODES = "codes"
    FACTOR = "factor"


class Part(Enum):
    """The three parts of a model, by the prefix of their tensor names."""

    VISION = "vision_model."
    PROJECTOR = "mlp1."
    DECODER = "language_model."


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One expected tensor; `shape` is in Hugging Face orientation."""

    name: str
    shape: tuple[int, ...]
    kind: TensorKind

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)

    @property
    def is_matrix(self) -> bool:
        """Applied as a matrix: Linear weights and the patch convolution (its stride is its kernel)."""
        return self.kind in (TensorKind.LINEAR, TensorKind.CONVOLUTION)

    @property
    def part(self) -> Part:
        return next(part for part in Part if self.name.startswith(part.value))


def expected_tensors(config: InternVLConfig) -> dict[str, TensorSpec]:
    """Every tensor of the model that `config` describes, by name, in the order of the forward pass."""
    specs = [*_vision(config.vision), *_projector(config), *_decoder(config.llm)]
    return {spec.name: spec for spec in specs}


def _vision(config: VisionConfig) -> Iterator[TensorSpec]:
    width = config.hidden_size
    stem = f"{Part.VISION.value}embeddings."
    patch = (width, config.num_channels, config.patch_size, config.patch_size)
    yield TensorSpec(f"{stem}class_embedding", (1, 1, width), TensorKind.EMBEDDING)
    yield TensorSpec(f"{stem}patch_embedding.weight", patch, TensorKind.CONVOLUTION)
    yield TensorSpec(f"{stem}patch_embedding.bias", (width,), TensorKind.BIAS)
    yield TensorSpec(f"{stem}position_embedding", (1, config.num_patches + 1, width), TensorKind.EMBEDDING)
    for index in range(config.num_hidden_layers):
        yield from _vision_block(config, f"{Part.VISION.value}encoder.layers.{index}.")


def _vision_block(config: VisionConfig, block: str) -> Iterator[TensorSpec]:
    width, inner = config.hidden_size, config.intermediate_size
    yield from _linear(f"{block}attn.qkv", 3 * width, width, bias=config.qkv_bias)
    if config.qk_normalization:
        yield TensorSpec(f"{block}attn.q_norm.weight", (width,), TensorKind.GAIN)
        yield TensorSpec(f"{block}attn.k_norm.weight", (width,), TensorKind.GAIN)
    yield from _linear(f"{block}attn.proj", width, width, bias=True)
    yield from _linear(f"{block}mlp.fc1", inner, width, bias=True)
    yield from _linear(f"{block}mlp.fc2", width, inner, bias=True)
    for norm in ("norm1", "norm2"):
        yield from _norm(f"{block}{norm}", width, bias=config.norm_type == "layer_norm")
    for scale in ("ls1", "ls2"):
        yield TensorSpec(f"{block}{scale}", (width,), TensorKind.GAIN)


def _projector(config: InternVLConfig) -> Iterator[TensorSpec]:
    shuffled, width = config.projector_input_size, config.llm.hidden_size
    yield from _norm(f"{Part.PROJECTOR.value}0", shuffled, bias=True)
    yield from _linear(f"{Part.PROJECTOR.value}1", width, shuffled, bias=True)
    yield from _linear(f"{Part.PROJECTOR.value}3", width, width, bias=True)


def _decoder(config: LlmConfig) -> Iterator[TensorSpec]:
    if config.architecture == "InternLM2ForCausalLM":
        yield from _internlm2(config)
        return
    vocabulary = (config.vocab_size, config.hidden_size)
    stem = f"{Part.DECODER.value}model."
    yield TensorSpec(f"{stem}embed_tokens.weight", vocabulary, TensorKind.EMBEDDING)
    for index in range(config.num_hidden_layers):
        block = f"{stem}layers.{index}."
        if config.architecture == "Phi3ForCausalLM":
            yield from _phi3_block(config, block)
        elif config.architecture in ("LlamaForCausalLM", "Qwen2ForCausalLM"):
            yield from _llama_block(config, block)
        else:
            raise ConfigError(f"llm_config.architectures: no tensor names known for {config.architecture!r}")
        yield from _norm(f"{block}input_layernorm", config.hidden_size, bias=False)
        yield from _norm(f"{block}post_attention_layernorm", config.hidden_size, bias=False)
    yield from _norm(f"{stem}norm", config.hidden_size, bias=False)
    if not config.tie_word_embeddings:
        yield TensorSpec(f"{Part.DECODER.value}lm_head.weight", vocabulary, TensorKind.LINEAR)


def _phi3_block(config: LlmConfig, block: str) -> Iterator[TensorSpec]:
    width, inner = config.hidden_size, config.intermediate_size
    queries, keys = _attention_widths(config)
    yield from _linear(f"{block}self_attn.qkv_proj", queries + 2 * keys, width, bias=False)
    yield from _linear(f"{block}self_attn.o_proj", width, queries, bias=False)
    yield from _linear(f"{block}mlp.gate_up_proj", 2 * inner, width, bias=False)
    yield from _linear(f"{block}mlp.down_proj", width, inner, bias=False)


def _llama_block(config: LlmConfig, block: str) -> Iterator[TensorSpec]:
    width, inner = config.hidden_size, config.intermediate_size
    queries, keys = _attention_widths(config)
    # Qwen2 always has these three biases and no key that says so; Llama's key adds one to o_proj as well.
    qkv_bias = config.attention_bias or config.architecture == "Qwen2ForCausalLM"
    yield from _linear(f"{block}self_attn.q_proj", queries, width, bias=qkv_bias)
    yield from _linear(f"{block}self_attn.k_proj", keys, width, bias=qkv_bias)
    yield from _linear(f"{block}self_attn.v_proj", keys, width, bias=qkv_bias)
    yield from _linear(f"{block}self_attn.o_proj", width, queries, bias=config.attention_bias)
    yield from _linear(f"{block}mlp.gate_proj", inner, width, bias=False)
    yield from _linear(f"{block}mlp.up_proj", inner, width, bias=False)
    yield from _linear(f"{block}mlp.down_proj", width, inner, bias=False)


def _internlm2(config: LlmConfig) -> Iterator[TensorSpec]:
    width, inner = config.hidden_size, config.intermediate_size
    queries, keys = _attention_widths(config)
    stem = f"{Part.DECODER.value}model."
    yield TensorSpec(f"{stem}tok_embeddings.weight", (config.vocab_size, width), TensorKind.EMBEDDING)
    for index in range(config.num_hidden_layers):
        block = f"{stem}layers.{index}."
        yield from _linear(f"{block}attention.wqkv", queries + 2 * keys, width, bias=False)
        yield from _linear(f"{block}attention.wo", width, queries, bias=False)
        yield from _linear(f"{block}feed_forward.w1", inner, width, bias=False)
        yield from _linear(f"{block}feed_forward.w3", inner, width, bias=False)
        yield from _linear(f"{block}feed_forward.w2", width, inner, bias=False)
        yield from _norm(f"{block}attention_norm", width, bias=False)
        yield from _norm(f"{block}ffn_norm", width, bias=False)
    yield from _norm(f"{stem}norm", width, bias=False)
    if not config.tie_word_embeddings:
        yield TensorSpec(f"{Part.DECODER.value}output.weight", (config.vocab_size, width), TensorKind.LINEAR)


def _attention_widths(config: LlmConfig) -> tuple[int, int]:
    """Channels of all query heads, and of all key (or value) heads."""
    return config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim


def _linear(name: str, outputs: int, inputs: int, *, bias: bool) -> Iterator[TensorSpec]:
    yield TensorSpec(f"{name}.weight", (outputs, inputs), TensorKind.LINEAR)
    if bias:
        yield TensorSpec(f"{name}.bias", (outputs,), TensorKind.BIAS)


def _norm(name: str, width: int, *, bias: bool) -> Iterator[TensorSpec]:
    yield TensorSpec(f"{name}.weight", (width,), TensorKind.GAIN)
    if bias:
        yield TensorSpec(f"{name}.bias", (width,), TensorKind.BIAS)
