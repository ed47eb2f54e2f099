"""What is compared with what, and how far ahead this project wants to be."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.peers.pieces import Measure, decode_rate, first_s, second_s, serve_rate, third_s, token_ms


@dataclass(frozen=True, slots=True)
class Goal:
    """One comparison.

    Attributes:
        piece: by its name in `PIECES`.
        ours: weight format.
        peer: engine it is about.
        peer_form: weight format of the peer; empty for whatever it runs in.
        bound: of the ratio, ours over the peer's.
        more_is_better: whether the measure is a rate; the ratio must then be at least `bound`.
    """

    metric: str
    piece: str
    measure: Measure
    unit: str
    ours: str
    peer: str
    bound: float
    peer_form: str = ""
    more_is_better: bool = False

    def reached(self, ratio: float) -> bool:
        """Whether a ratio is good enough."""
        return ratio >= self.bound if self.more_is_better else ratio <= self.bound

    @property
    def text(self) -> str:
        """The bound in words."""
        return f"goal {'>=' if self.more_is_better else '<='} {self.bound:g}x"

    @property
    def rival(self) -> str:
        """The peer, and its weight format if that is given: so its contestants' names begin."""
        return f"{self.peer} {self.peer_form}".strip()


_MS, _S, _RATE = "ms/token", "s", "tokens/s"

GOALS = (
    Goal("decode_b1_bf16", "text", token_ms, _MS, "bf16", "vllm", 0.75),
    Goal("decode_b1_int8", "text", token_ms, _MS, "int8", "llama", 0.7, "q8_0"),
    Goal("decode_b1_int4", "text", token_ms, _MS, "w4", "llama", 0.85, "q4_k_m"),
    Goal("ttft_512_bf16", "text", first_s, _S, "bf16", "vllm", 0.97),
    Goal("ttft_512_int8", "text", first_s, _S, "int8", "vllm", 0.52),
    Goal("decode_b8_bf16", "streams_8", decode_rate, _RATE, "bf16", "vllm", 1.15, more_is_better=True),
    Goal("decode_b8_int8", "streams_8", decode_rate, _RATE, "int8", "vllm", 1.9, more_is_better=True),
    Goal("serve_b8_bf16", "serve_8", serve_rate, _RATE, "bf16", "vllm", 1.1, more_is_better=True),
    Goal("serve_b8_int8", "serve_8", serve_rate, _RATE, "int8", "vllm", 1.9, more_is_better=True),
    Goal("image_cold_bf16", "image", first_s, _S, "bf16", "vllm", 0.9),
    Goal("image_cold_int8", "image", first_s, _S, "int8", "vllm", 0.52),
    Goal("image_turn2", "image", second_s, _S, "int8", "vllm", 0.55),
    Goal("image_newq", "image", third_s, _S, "int8", "vllm", 0.6),
)

BANDWIDTH_GOAL = 0.8
SPLIT_GOAL = 1.05
EXTRA_GIB_GOAL = 1.5

MEASURES = (
    ("ttft_512", "text", first_s, _S),
    ("decode_b1", "text", token_ms, _MS),
    ("decode_b4", "streams_4", decode_rate, _RATE),
    ("decode_b8", "streams_8", decode_rate, _RATE),
    ("serve_b8", "serve_8", serve_rate, _RATE),
    ("image_cold", "image", first_s, _S),
    ("image_turn2", "image", second_s, _S),
    ("image_newq", "image", third_s, _S),
)
"""What is told of every contestant, compared or not."""
