"""Differentiable layers for CPU training: Paddle's autograd over NumPy arithmetic.

Paddle's CPU operators are slow in just what training needs (measured with one thread on this kind of
machine: GELU gradient 26 ms where NumPy takes 1, bias gradient 8 against 0.2, matrix product 8.3 against
5.3, 4-D transposes worse), so each layer is a PyLayer whose arrays NumPy computes without copying them.
"""

import math
from typing import Any

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle.autograd import PyLayer

from models.recipe.geometry import GRID

Floats = NDArray[np.float32]


def _array(tensor: Any) -> Floats:
    return np.asarray(np.from_dlpack(tensor.detach()), np.float32)


def _tensor(array: Floats) -> Any:
    return paddle.from_dlpack(np.ascontiguousarray(array))


def _row_mean(a: Floats, b: Floats) -> Floats:
    return np.asarray(np.einsum("...i,...i->...", a, b)[..., None] / np.float32(a.shape[-1]), np.float32)


class Linear(PyLayer):  # type: ignore[misc]
    """x @ weight (+ bias), weight [in, out]."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any) -> Any:
        value, matrix = _array(x), _array(weight)
        flat = value.reshape(-1, value.shape[-1])
        out = flat @ matrix
        if bias is not None:
            out += _array(bias)
        ctx.saved = (flat, matrix, value.shape, bias is not None)
        return _tensor(out.reshape(*value.shape[:-1], matrix.shape[1]))

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        flat, matrix, shape, has_bias = ctx.saved
        g = _array(grad).reshape(-1, matrix.shape[1])
        dx, dw = _tensor((g @ matrix.T).reshape(shape)), _tensor(flat.T @ g)
        return (dx, dw, _tensor(g.sum(axis=0))) if has_bias else (dx, dw)


class PatchEmbedding(PyLayer):  # type: ignore[misc]
    """Constant patches [N, 64, P] to [N, 65, C]: projected, class token in front, positions added."""

    @staticmethod
    def forward(ctx: Any, weight: Any, cls: Any, position: Any, patches: Any) -> Any:
        out = np.empty((patches.shape[0], patches.shape[1] + 1, weight.shape[1]), np.float32)
        out[:, 0] = _array(cls)[0]
        out[:, 1:] = patches @ _array(weight)
        out += _array(position)
        ctx.saved = patches
        return _tensor(out)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        patches, g = ctx.saved, _array(grad)
        inner = np.ascontiguousarray(g[:, 1:]).reshape(-1, g.shape[-1])
        dw = patches.reshape(-1, patches.shape[-1]).T @ inner
        position = g.sum(axis=0, keepdims=True)
        return _tensor(dw), _tensor(position[:, :1].copy()), _tensor(position)


CHUNK = 1 << 15
ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


class Gelu(PyLayer):  # type: ignore[misc]
    """x * Phi(x); erf as in Abramowitz and Stegun 7.1.26, good to 1.5e-7, in pieces that fit the cache."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        value = _array(x)
        out, slope = np.empty_like(value), np.empty_like(value)
        flat, flat_out, flat_slope = value.reshape(-1), out.reshape(-1), slope.reshape(-1)
        for start in range(0, flat.size, CHUNK):
            part = slice(start, start + CHUNK)
            Gelu._piece(flat[part], flat_out[part], flat_slope[part])
        ctx.saved = slope
        return _tensor(out)

    @staticmethod
    def _piece(z: Floats, out: Floats, slope: Floats) -> None:
        bell = z * z
        bell *= np.float32(-0.5)
        np.exp(bell, out=bell)
        t = np.abs(z)
        t *= np.float32(0.3275911 / math.sqrt(2))
        t += np.float32(1)
        np.reciprocal(t, out=t)
        series = t * np.float32(ERF[4])
        for coefficient in ERF[3::-1]:
            series += np.float32(coefficient)
            series *= t
        series *= bell
        series *= np.float32(-0.5)
        series += np.float32(0.5)
        np.copysign(series, z, out=series)
        series += np.float32(0.5)
        np.multiply(series, z, out=out)
        bell *= np.float32(1 / math.sqrt(2 * math.pi))
        bell *= z
        np.add(bell, series, out=slope)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return _tensor(ctx.saved * _array(grad))


class GatedSilu(PyLayer):  # type: ignore[misc]
    """silu(gate) * up of fused [..., 2 * M], gate first."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        value = _array(x)
        half = value.shape[-1] // 2
        gate, up = value[..., :half], value[..., half:]
        sigmoid = np.exp(-gate)
        sigmoid += np.float32(1)
        np.reciprocal(sigmoid, out=sigmoid)
        silu = sigmoid * gate
        ctx.saved = (gate, up, sigmoid, silu)
        return _tensor(silu * up)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        gate, up, sigmoid, silu = ctx.saved
        g = _array(grad)
        half = g.shape[-1]
        out = np.empty((*g.shape[:-1], 2 * half), np.float32)
        np.multiply(g, silu, out=out[..., half:])
        slope = gate - silu
        slope += np.float32(1)
        slope *= sigmoid
        slope *= up
        np.multiply(g, slope, out=out[..., :half])
        return _tensor(out)


class Normalise(PyLayer):  # type: ignore[misc]
    """LayerNorm (`centre`) or RMSNorm over the last axis, without weights."""

    @staticmethod
    def forward(ctx: Any, x: Any, eps: float, centre: bool) -> Any:
        value = _array(x)
        y = value - value.mean(axis=-1, keepdims=True) if centre else value.copy()
        inverse = 1.0 / np.sqrt(_row_mean(y, y) + np.float32(eps))
        y *= inverse
        ctx.saved = (y, inverse, centre)
        return _tensor(y)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        y, inverse, centre = ctx.saved
        g = _array(grad)
        dx = y * (-_row_mean(g, y))
        dx += g
        if centre:
            dx -= g.mean(axis=-1, keepdims=True)
        dx *= inverse
        return _tensor(dx)


def _rotate(x: Floats, rope: tuple[Floats, Floats], sign: int) -> Floats:
    """Half-split rotation of [B, H, S, D] by (cos, sin); sign -1 is its transpose."""
    cos, sin = rope
    half = x.shape[-1] // 2
    out = x * cos
    turned = np.empty_like(x)
    np.multiply(x[..., half:], sin[..., half:], out=turned[..., :half])
    np.multiply(x[..., :half], sin[..., :half], out=turned[..., half:])
    if sign > 0:
        out[..., :half] -= turned[..., :half]
        out[..., half:] += turned[..., half:]
    else:
        out[..., :half] += turned[..., :half]
        out[..., half:] -= turned[..., half:]
    return out


class Attention(PyLayer):  # type: ignore[misc]
    """Softmax attention over fused qkv [B, S, 3 * H * D], with optional rotation and additive mask."""

    @staticmethod
    def forward(ctx: Any, qkv: Any, heads: int, rope: Any, mask: Any) -> Any:
        value = _array(qkv)
        b, s, width = value.shape
        d = width // (3 * heads)
        q, k, v = np.ascontiguousarray(value.reshape(b, s, 3, heads, d).transpose(2, 0, 3, 1, 4))
        if rope is not None:
            q, k = _rotate(q, rope, 1), _rotate(k, rope, 1)
        scale = np.float32(d**-0.5)
        p = np.matmul(q * scale, k.swapaxes(-1, -2))
        if mask is not None:
            p += mask
        p -= p.max(axis=-1, keepdims=True)
        np.exp(p, out=p)
        p /= p.sum(axis=-1, keepdims=True)
        out = np.matmul(p, v).transpose(0, 2, 1, 3)
        ctx.saved = (q, k, v, p, rope, scale)
        return _tensor(np.ascontiguousarray(out).reshape(b, s, heads * d))

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        q, k, v, p, rope, scale = ctx.saved
        b, heads, s, d = q.shape
        g = np.ascontiguousarray(_array(grad).reshape(b, s, heads, d).transpose(0, 2, 1, 3))
        out = np.empty((3, b, heads, s, d), np.float32)
        np.matmul(p.swapaxes(-1, -2), g, out=out[2])
        dp = np.matmul(g, v.swapaxes(-1, -2))
        dp -= np.einsum("...i,...i->...", dp, p)[..., None]
        dp *= p
        dp *= scale
        dq, dk = np.matmul(dp, k), np.matmul(dp.swapaxes(-1, -2), q)
        if rope is not None:
            dq, dk = _rotate(dq, rope, -1), _rotate(dk, rope, -1)
        out[0], out[1] = dq, dk
        return _tensor(np.ascontiguousarray(out.transpose(1, 3, 0, 2, 4)).reshape(b, s, 3 * heads * d))


class PixelShuffle(PyLayer):  # type: ignore[misc]
    """[N, 1 + 64, C] class token and patches to [N, 16, 4C] tokens, ps_version v2; the class token is
    dropped."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        value = _array(x)[:, 1:]
        n, _, c = value.shape
        half = GRID // 2
        out = value.reshape(n, half, 2, half, 2, c).transpose(0, 1, 3, 2, 4, 5)
        return _tensor(np.ascontiguousarray(out).reshape(n, half * half, 4 * c))

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        value = _array(grad)
        n, _, c4 = value.shape
        half = GRID // 2
        out = np.zeros((n, GRID * GRID + 1, c4 // 4), np.float32)
        patches = value.reshape(n, half, half, 2, 2, c4 // 4).transpose(0, 1, 3, 2, 4, 5)
        out[:, 1:] = patches.reshape(n, GRID * GRID, c4 // 4)
        return _tensor(out)
