"""The operators against float64 numpy, where block borders, grouping and large values could go wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kernels.dispatch import open_ops
from kernels.ops import Linear, Norm
from kernels.runtime import CPU

OPS = open_ops(CPU)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) * np.float32(scale)


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def attention_by_hand(q: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """One head at a time: query i of n sees keys up to total - n + i."""
    (tokens, heads, size), (kv_heads, total, _) = q.shape, keys.shape
    hidden = np.arange(total)[None, :] > np.arange(tokens)[:, None] + total - tokens
    out = np.empty((tokens, heads, size))
    for head in range(heads):
        group = head * kv_heads // heads
        scores = q[:, head].astype(np.float64) @ keys[group].T.astype(np.float64) / math.sqrt(size)
        out[:, head] = softmax(np.where(hidden, -np.inf, scores)) @ values[group].astype(np.float64)
    return out.reshape(tokens, heads * size)


@pytest.mark.parametrize(
    ("tokens", "total"), [(1, 1), (1, 300), (7, 7), (256, 256), (257, 300), (600, 600), (600, 700)]
)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (3, 1)])
def test_causal_attention_equals_formula(tokens, total, heads, kv_heads):
    q, keys, values = (
        normal(tokens, heads, 10),
        normal(kv_heads, total, 10, seed=1),
        normal(kv_heads, total, 10),
    )
    ours = OPS.to_numpy(OPS.causal_attention(OPS.tensor(q), OPS.tensor(keys), OPS.tensor(values)))
    np.testing.assert_allclose(ours, attention_by_hand(q, keys, values), atol=2e-5)


def test_attention_survives_scores_that_overflow_exp():
    q, keys, values = normal(5, 2, 8, scale=300), normal(2, 5, 8, scale=300, seed=1), normal(2, 5, 8, seed=2)
    ours = OPS.to_numpy(OPS.causal_attention(OPS.tensor(q), OPS.tensor(keys), OPS.tensor(values)))
    np.testing.assert_allclose(ours, attention_by_hand(q, keys, values), atol=1e-2)


@pytest.mark.parametrize(("tiles", "tokens"), [(1, 1), (3, 17), (3, 2900)])
def test_full_attention_stays_inside_its_tile(tiles, tokens):
    q, k, v = (normal(tiles, tokens, 2, 6, seed=seed) for seed in range(3))
    ours = OPS.to_numpy(OPS.full_attention(OPS.tensor(q), OPS.tensor(k), OPS.tensor(v)))
    for tile in range(tiles):
        for head in range(2):
            scores = (
                q[tile, :, head].astype(np.float64) @ k[tile, :, head].T.astype(np.float64) / math.sqrt(6)
            )
            expected = softmax(scores) @ v[tile, :, head]
            np.testing.assert_allclose(ours[tile, :, head * 6 : head * 6 + 6], expected, atol=2e-5)


def test_rotary_turns_channel_pairs_half_a_head_apart():
    x, angle = normal(3, 2, 8), np.linspace(0, 5, 12, dtype=np.float32).reshape(3, 1, 4)
    ours = OPS.to_numpy(OPS.rotary(OPS.tensor(x), OPS.tensor(np.cos(angle)), OPS.tensor(np.sin(angle))))
    turned = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angle)
    np.testing.assert_allclose(ours, np.concatenate([turned.real, turned.imag], axis=-1), atol=1e-6)


def test_gelu_is_the_exact_form():
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    exact = [value * 0.5 * math.erfc(-value / math.sqrt(2)) for value in x.astype(np.float64)]
    np.testing.assert_allclose(OPS.to_numpy(OPS.gelu(OPS.tensor(x))), exact, atol=1e-6)


def test_swiglu_gates_with_the_first_half():
    x = normal(5, 12).astype(np.float64)
    gate, up = x[:, :6], x[:, 6:]
    ours = OPS.to_numpy(OPS.swiglu(OPS.tensor(x)))
    np.testing.assert_allclose(ours, gate / (1 + np.exp(-gate)) * up, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_norms_equal_formula(scale):
    x, weight, bias = normal(4, 33, scale=scale), normal(33, seed=1), normal(33, seed=2)
    wide = x.astype(np.float64)
    rms = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * weight
    centred = wide - wide.mean(-1, keepdims=True)
    layer = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias

    gain = OPS.tensor(weight)
    np.testing.assert_allclose(OPS.to_numpy(OPS.norm(OPS.tensor(x), Norm(gain, None, 1e-5))), rms, atol=1e-5)
    with_bias = Norm(gain, OPS.tensor(bias), 1e-5)
    np.testing.assert_allclose(OPS.to_numpy(OPS.norm(OPS.tensor(x), with_bias)), layer, atol=2e-5)


def test_linear_owns_its_weights():
    weight, bias, x = normal(7, 5), normal(7, seed=1), normal(2, 3, 5, seed=2)
    expected = x @ weight.T + bias
    layer = Linear(OPS.pack(weight), OPS.tensor(bias))
    weight[:] = 0
    bias[:] = 0
    np.testing.assert_allclose(OPS.to_numpy(OPS.linear(OPS.tensor(x), layer)), expected, atol=1e-5)
    assert layer.weight.shape == (7, 5)
