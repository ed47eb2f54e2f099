"""The Phi-3 decoder (source of the formulas: InternVL modeling_phi3.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import paddle

from internvl.checkpoint.tensor_specs import Part
from internvl.model_config import LlmConfig
from kernels.ops import Linear, Ops, Tensor
from kernels.weights import Weights
from llm_service.model.kv_cache import LayerStore

_STEM = f"{Part.DECODER.value}model."


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows `start` to `end` of the batch belong to the sequence of `store`."""

    start: int
    end: int
    store: LayerStore


@dataclass(frozen=True, slots=True)
class Context:
    """What the layers of one forward pass share.

    Attributes:
        cos, sin: [tokens, 1, head_dim / 2], scaled, each row for its own position and regime.
        segments: the sequences, covering all rows in order.
    """

    cos: Tensor
    sin: Tensor
    segments: Sequence[Segment]


class Decoder:
    """Pre-norm layers and the final norm. Embedding lookup and head belong to the runner."""

    def __init__(self, weights: Weights, config: LlmConfig, ops: Ops) -> None:
        self._ops = ops
        self._layers = [
            DecoderLayer(weights, index, config, ops) for index in range(config.num_hidden_layers)
        ]
        self._norm = weights.norm(f"{_STEM}norm", config.rms_norm_eps)

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """[tokens, hidden] -> the same shape, before the final norm; the caches hold the new tokens."""
        for layer in self._layers:
            hidden = layer.forward(hidden, context)
        return hidden

    def normalise(self, hidden: Tensor) -> Tensor:
        """The final norm; apart from `forward`, so that it runs only on rows whose logits are wanted."""
        return self._ops.norm(hidden, self._norm)


class DecoderLayer:
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, weights: Weights, index: int, config: LlmConfig, ops: Ops) -> None:
        prefix = f"{_STEM}layers.{index}."
        self._ops = ops
        self._attention = SelfAttention.from_weights(weights, index, config, ops)
        self._input_norm = weights.norm(f"{prefix}input_layernorm", config.rms_norm_eps)
        self._mlp_norm = weights.norm(f"{prefix}post_attention_layernorm", config.rms_norm_eps)
        self._gate_up = weights.linear(f"{prefix}mlp.gate_up_proj")
        self._down = weights.linear(f"{prefix}mlp.down_proj")

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        ops = self._ops
        hidden = hidden + self._attention.forward(ops.norm(hidden, self._input_norm), context)
        inner = ops.swiglu(ops.linear(ops.norm(hidden, self._mlp_norm), self._gate_up))
        return hidden + ops.linear(inner, self._down)


@dataclass(frozen=True, slots=True)
class SelfAttention:
    """Fused qkv (contiguous q | k | v), rotary over the whole head, causal attention per sequence."""

    ops: Ops
    layer: int
    heads: int
    kv_heads: int
    head_dim: int
    qkv: Linear
    output: Linear

    @classmethod
    def from_weights(cls, weights: Weights, layer: int, config: LlmConfig, ops: Ops) -> SelfAttention:
        prefix = f"{_STEM}layers.{layer}.self_attn."
        return cls(
            ops=ops,
            layer=layer,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            qkv=weights.linear(f"{prefix}qkv_proj"),
            output=weights.linear(f"{prefix}o_proj"),
        )

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """[tokens, hidden] -> the same shape. Products run on all sequences at once, attention on each."""
        turned = self.heads + self.kv_heads
        qkv = self.ops.linear(hidden, self.qkv).reshape([-1, turned + self.kv_heads, self.head_dim])
        # q and k lie side by side and turn alike: one rotation for both.
        qk = self.ops.rotary(qkv[:, :turned], context.cos, context.sin)
        q, k, v = qk[:, : self.heads], qk[:, self.heads :], qkv[:, turned:]
        mixed = [self._attend(q, k, v, segment) for segment in context.segments]
        return self.ops.linear(mixed[0] if len(mixed) == 1 else paddle.concat(mixed), self.output)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, segment: Segment) -> Tensor:
        rows = slice(segment.start, segment.end)
        keys, values = segment.store.extend(self.layer, k[rows], v[rows])
        return self.ops.causal_attention(q[rows], keys, values)
