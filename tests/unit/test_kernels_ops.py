"""The operators against float64 numpy, where block borders, grouping and large values could go wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kernels.dispatch import open_ops
from kernels.ops import Activation, Linear, Norm
from kernels.paddle_ops import PaddleOps
from kernels.runtime import CPU

OPS = open_ops(CPU)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) * np.float32(scale)


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize(("tiles", "tokens"), [(1, 1), (3, 17), (3, 2900)])
def test_full_attention_stays_inside_its_tile(tiles, tokens):
    q, k, v = (normal(tiles, tokens, 2, 6, seed=seed) for seed in range(3))
    qkv = np.stack([q, k, v], axis=2).reshape(tiles, tokens, -1)
    ours = OPS.to_numpy(OPS.full_attention(OPS.tensor(qkv), heads=2))
    for tile in range(tiles):
        for head in range(2):
            scores = (
                q[tile, :, head].astype(np.float64) @ k[tile, :, head].T.astype(np.float64) / math.sqrt(6)
            )
            expected = softmax(scores) @ v[tile, :, head]
            np.testing.assert_allclose(ours[tile, :, head * 6 : head * 6 + 6], expected, atol=2e-5)


def test_gelu_is_the_exact_form():
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    exact = [value * 0.5 * math.erfc(-value / math.sqrt(2)) for value in x.astype(np.float64)]
    np.testing.assert_allclose(OPS.to_numpy(OPS.activate(OPS.tensor(x), Activation.GELU)), exact, atol=1e-6)


def test_swiglu_gates_with_the_first_half():
    x = normal(5, 12).astype(np.float64)
    gate, up = x[:, :6], x[:, 6:]
    ours = OPS.to_numpy(OPS.activate(OPS.tensor(x), Activation.SWIGLU))
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


def test_rms_norm_runs_on_a_processor_without_avx512(monkeypatch):
    """Paddle's fused operator ends the process there with an illegal instruction."""
    monkeypatch.setattr("kernels.paddle_ops.cpu_flags", frozenset)
    monkeypatch.setattr("kernels.paddle_ops.fused_rms_norm", None)
    ops, x, weight = PaddleOps(CPU), normal(4, 33), normal(33, seed=1)

    ours = ops.to_numpy(ops.norm(ops.tensor(x), Norm(ops.tensor(weight), None, 1e-5)))

    wide = x.astype(np.float64)
    np.testing.assert_allclose(
        ours, wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * weight, atol=1e-5
    )


def test_linear_takes_norm_activation_scale_and_residual_along():
    weight, gain, x, residual = normal(7, 5), normal(5, seed=1), normal(3, 10, seed=2), normal(3, 7, seed=3)
    bias, scale = normal(7, seed=4), normal(7, seed=5)
    layer, norm = Linear(OPS.pack(weight), OPS.tensor(bias)), Norm(OPS.tensor(gain), None, 1e-5)
    scales, kept = OPS.tensor(scale), OPS.tensor(residual)
    normed = x[:, :5] / np.sqrt((x[:, :5].astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-5) * gain
    out = OPS.linear(OPS.tensor(x[:, :5]), layer, before=norm, residual=kept)
    np.testing.assert_allclose(OPS.to_numpy(out), normed @ weight.T + bias + residual, atol=1e-5)
    gated = x[:, :5] / (1 + np.exp(-x[:, :5])) * x[:, 5:]
    out = OPS.linear(OPS.tensor(x), layer, before=Activation.SWIGLU, scale=scales, residual=kept)
    np.testing.assert_allclose(OPS.to_numpy(out), (gated @ weight.T + bias) * scale + residual, atol=1e-5)
    np.testing.assert_array_equal(OPS.to_numpy(kept), residual)
    np.testing.assert_array_equal(OPS.to_numpy(scales), scale)


def test_linear_owns_its_weights():
    weight, bias, x = normal(7, 5), normal(7, seed=1), normal(2, 3, 5, seed=2)
    expected = x @ weight.T + bias
    layer = Linear(OPS.pack(weight), OPS.tensor(bias))
    weight[:] = 0
    bias[:] = 0
    np.testing.assert_allclose(OPS.to_numpy(OPS.linear(OPS.tensor(x), layer)), expected, atol=1e-5)
    assert layer.weight.shape == (7, 5)
