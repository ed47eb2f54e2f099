"""The Phi-3 decoder (source of the formulas: InternVL modeling_phi3.py)."""

from __future__ import annotations

from dataclasses import dataclass

from internvl.checkpoint.tensor_specs import Part
from internvl.model_config import LlmConfig
from kernels.ops import Activation, Ops, Tensor
from kernels.paged import AttentionPlan, KvPool
from kernels.weights import Weights

_STEM = f"{Part.DECODER.value}model."


@dataclass(frozen=True, slots=True)
class Context:
    """What the layers of one forward pass share: the cache, and where in it each row belongs."""

    pool: KvPool
    plan: AttentionPlan


class Decoder:
    """Pre-norm layers. Embedding lookup, final norm and head belong to the runner."""

    def __init__(self, weights: Weights, config: LlmConfig, ops: Ops) -> None:
        self._layers = [
            DecoderLayer(weights, index, config, ops) for index in range(config.num_hidden_layers)
        ]

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """[rows, hidden] -> the same shape, before the final norm; the cache holds the new tokens."""
        for layer in self._layers:
            hidden = layer.forward(hidden, context)
        return hidden


class DecoderLayer:
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, weights: Weights, index: int, config: LlmConfig, ops: Ops) -> None:
        prefix = f"{_STEM}layers.{index}."
        self._ops = ops
        self._attention = SelfAttention(weights, index, config, ops)
        self._norm = weights.norm(f"{prefix}post_attention_layernorm", config.rms_norm_eps)
        self._gate_up = weights.linear(f"{prefix}mlp.gate_up_proj")
        self._down = weights.linear(f"{prefix}mlp.down_proj")

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        hidden = self._attention.forward(hidden, context)
        gate_up = self._ops.linear(hidden, self._gate_up, before=self._norm)
        return self._ops.linear(gate_up, self._down, before=Activation.SWIGLU, residual=hidden)


class SelfAttention:
    """Pre-norm, fused qkv (contiguous q | k | v), rotary over the whole head, causal on the cache."""

    def __init__(self, weights: Weights, index: int, config: LlmConfig, ops: Ops) -> None:
        layer = f"{_STEM}layers.{index}."
        prefix = f"{layer}self_attn."
        self._ops = ops
        self._index = index
        self._norm = weights.norm(f"{layer}input_layernorm", config.rms_norm_eps)
        self._qkv = weights.linear(f"{prefix}qkv_proj")
        self._output = weights.linear(f"{prefix}o_proj")

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """x + attention(norm(x)): [rows, hidden] -> the same shape."""
        qkv = self._ops.linear(hidden, self._qkv, before=self._norm)
        mixed = self._ops.paged_attention(qkv, context.pool, self._index, context.plan)
        return self._ops.linear(mixed, self._output, residual=hidden)
