"""Rotary position frequencies of Phi-3: plain, or `su`/`longrope` with two regimes.

Source of the formulas: InternVL modeling_phi3.py, class Phi3SuScaledRotaryEmbedding.

Policy at the trained length. A sequence lives in one regime at a time. The engine picks it at prefill from
the request's total prompt length (`regime_for`): never per chunk, or chunked prefill would rotate one prompt
in two ways, and never per batch, or a long neighbour would change a short request's answer. When generation
passes the limit, cached keys rotated with short factors are worthless: the engine drops the blocks and
prefills everything again with the long ones, as transformers does from 4.45 on.
"""

from __future__ import annotations

import math
from enum import Enum

import numpy as np

from internvl.errors import ConfigError
from internvl.model_config import InternVLConfig, LlmConfig


class RopeRegime(Enum):
    """Which factors rotate a sequence; part of what identifies its cached keys."""

    SHORT = "short"
    LONG = "long"


def regime_for(total_length: int, config: InternVLConfig) -> RopeRegime:
    """The regime of a sequence of `total_length` tokens, visual tokens included.

    LONG from `original_max_position_embeddings` + 1 tokens on; always SHORT for a model without rope scaling.
    """
    scaled = config.llm.rope_scaling is not None
    over = total_length > config.llm.original_max_position_embeddings
    return RopeRegime.LONG if scaled and over else RopeRegime.SHORT


_NUMBERS = {regime: number for number, regime in enumerate(RopeRegime)}


def regime_number(regime: RopeRegime) -> int:
    """Its place among the regimes, for arrays."""
    return _NUMBERS[regime]


class RotaryTables:
    """cos and sin of every position, computed for the positions of a batch when they are needed.

    The frequencies (one vector per regime) are built once. A full table would be 100 MB at 131,072 positions,
    and a forward pass looks up each position once for all its layers.
    """

    def __init__(self, config: LlmConfig) -> None:
        self._frequencies = np.stack([_frequencies(config, regime) for regime in RopeRegime])
        self._scale = np.float32(attention_scale(config))

    def lookup(self, positions: np.ndarray, regimes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """cos and sin of each position, float32 [n, head_dim / 2].

        Args:
            positions: integers [n].
            regimes: integers [n], numbers of each one's regime as `regime_number` gives them.
        """
        angles = positions.astype(np.float32)[:, None] * self._frequencies[regimes]
        return np.cos(angles) * self._scale, np.sin(angles) * self._scale


def attention_scale(config: LlmConfig) -> float:
    """Factor on cos and sin: sqrt(1 + ln(max / original) / ln(original)), in both regimes.

    It depends on the two configured lengths only, never on that of the sequence; 1 without rope scaling.
    """
    original = config.original_max_position_embeddings
    ratio = config.max_position_embeddings / original
    if config.rope_scaling is None or ratio <= 1:
        return 1.0
    return math.sqrt(1 + math.log(ratio) / math.log(original))


def _frequencies(config: LlmConfig, regime: RopeRegime) -> np.ndarray:
    """1 / (factor_i * theta^(2 i / d)), float32 [d / 2].

    Rounded to float32 after each operation, as the reference does: at position 4096 the last bit of a
    frequency is already 2e-4 of a radian.
    """
    size = config.head_dim
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    powers = (config.rope_theta ** exponents.astype(np.float64)).astype(np.float32)
    frequencies: np.ndarray = np.float32(1) / (_factors(config, regime) * powers)
    return frequencies


def _factors(config: LlmConfig, regime: RopeRegime) -> np.ndarray:
    pairs = config.head_dim // 2
    if config.rope_scaling is None:
        return np.ones(pairs, dtype=np.float32)
    long = regime is RopeRegime.LONG
    factors = config.rope_scaling.long_factor if long else config.rope_scaling.short_factor
    if len(factors) != pairs:
        name = f"llm_config.rope_scaling.{regime.value}_factor"
        raise ConfigError(f"{name}: expected {pairs} factors, half the head size, found {len(factors)}")
    return np.asarray(factors, dtype=np.float32)
