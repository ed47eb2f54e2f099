"""The network in Paddle, written for training speed on CPU cores (one thread a process).

Same function as the served model: InternViT without affine norms and layer scale (exported as such, see `export`),
pixel shuffle v2, mlp1, Phi-3 decoder with `su` rope. Paddle's generic 4-D transposes and norm gradients are slow on
CPU, so attention and norms are PyLayers over NumPy; every linear layer is Paddle's.
"""

import math
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from numpy.typing import NDArray
from paddle.autograd import PyLayer

from models.recipe.batches import Batch
from models.recipe.geometry import GRID, VISUAL_TOKENS
from models.recipe.sizes import LABEL_CLASSES, SHORT_FACTORS, Shape


def rope_tables(shape: Shape, length: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """cos and sin [length, head] of the short regime, both scaled (Phi-3 `su`)."""
    factors = np.array(SHORT_FACTORS, np.float64)
    exponents = np.arange(0, shape.head, 2) / shape.head
    angles = np.arange(length)[:, None] / (factors * shape.theta**exponents)
    scale = math.sqrt(1 + math.log(shape.max_positions / shape.trained_positions) / math.log(shape.trained_positions))
    angles = np.concatenate([angles, angles], axis=1)
    return (np.cos(angles) * scale).astype(np.float32), (np.sin(angles) * scale).astype(np.float32)


def _array(tensor: Any) -> NDArray[np.float32]:
    return np.from_dlpack(tensor.detach())


def _tensor(array: NDArray[np.float32]) -> Any:
    return paddle.from_dlpack(np.ascontiguousarray(array))


def _row_mean(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.einsum("...i,...i->...", a, b)[..., None] / np.float32(a.shape[-1])


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


def _rotate(x: NDArray[np.float32], cos: NDArray[np.float32], sin: NDArray[np.float32], sign: int) -> NDArray[np.float32]:
    """Half-split rotation of [B, H, S, D]; sign -1 is its transpose."""
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
            q, k = _rotate(q, *rope, 1), _rotate(k, *rope, 1)
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
            dq, dk = _rotate(dq, *rope, -1), _rotate(dk, *rope, -1)
        out[0], out[1] = dq, dk
        return _tensor(np.ascontiguousarray(out.transpose(1, 3, 0, 2, 4)).reshape(b, s, 3 * heads * d))


class PixelShuffle(PyLayer):  # type: ignore[misc]
    """[N, 64, C] patches to [N, 16, 4C] tokens, ps_version v2."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        value = _array(x)
        n, _, c = value.shape
        half = GRID // 2
        out = value.reshape(n, half, 2, half, 2, c).transpose(0, 1, 3, 2, 4, 5)
        return _tensor(np.ascontiguousarray(out).reshape(n, half * half, 4 * c))

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        value = _array(grad)
        n, _, c4 = value.shape
        half = GRID // 2
        out = value.reshape(n, half, half, 2, 2, c4 // 4).transpose(0, 1, 3, 2, 4, 5)
        return _tensor(np.ascontiguousarray(out).reshape(n, GRID * GRID, c4 // 4))


class Network:
    """Functions of the parameters, a mapping from name to Paddle tensor."""

    def __init__(self, shape: Shape, parameters: dict[str, Any]) -> None:
        self.shape, self.p = shape, parameters
        self._rope = rope_tables(shape, 1024)

    def _linear(self, x: Any, name: str) -> Any:
        return F.linear(x, self.p[f"{name}.weight"], self.p.get(f"{name}.bias"))

    def visual_tokens(self, patches: NDArray[np.float32]) -> Any:
        """[N, 64, 588] patches to [N, 16, width] tokens."""
        s, p = self.shape, self.p
        x = paddle.matmul(_tensor(patches), p["vision.patch.weight"])
        cls = p["vision.cls"].expand([x.shape[0], 1, s.vision_width])
        x = paddle.concat([cls, x], axis=1) + p["vision.position"]
        for i in range(s.vision_layers):
            h = Normalise.apply(x, s.vision_eps, True)
            h = Attention.apply(self._linear(h, f"vision.{i}.qkv"), s.vision_width // s.head, None, None)
            x = x + self._linear(h, f"vision.{i}.proj")
            h = F.gelu(self._linear(Normalise.apply(x, s.vision_eps, True), f"vision.{i}.fc1"))
            x = x + self._linear(h, f"vision.{i}.fc2")
        x = Normalise.apply(PixelShuffle.apply(x[:, 1:]), 1e-5, True)
        return self._linear(F.gelu(self._linear(x, "mlp1.1")), "mlp1.3")

    def hidden(self, batch: Batch, visual: Any) -> tuple[Any, Any]:
        """Decoder states [B * S, width] after the last norm, and those after the first half of the layers."""
        s, p = self.shape, self.p
        table = p["embed"]
        if visual is not None:
            table = paddle.concat([table, visual.reshape([-1, s.width])], axis=0)
        b, length = batch.gather.shape
        x = paddle.gather(table, paddle.to_tensor(batch.gather.reshape(-1))).reshape([b, length, s.width])
        rope = tuple(t[batch.positions][:, None] for t in self._rope)
        middle = x
        for i in range(s.layers):
            h = self._linear(Normalise.apply(x, s.eps, False), f"decoder.{i}.qkv")
            h = Attention.apply(h, s.width // s.head, rope, batch.mask)
            x = x + self._linear(h, f"decoder.{i}.o")
            h = self._linear(Normalise.apply(x, s.eps, False), f"decoder.{i}.gate_up")
            gate, up = paddle.split(h, 2, axis=-1)
            x = x + self._linear(F.silu(gate) * up, f"decoder.{i}.down")
            if i == s.layers // 2 - 1:
                middle = x
        return Normalise.apply(x, s.eps, False).reshape([-1, s.width]), middle.reshape([-1, s.width])

    def answer_logits(self, batch: Batch, hidden: Any) -> Any:
        """Logits [A, vocabulary] at the answer positions."""
        return self._linear(paddle.gather(hidden, paddle.to_tensor(batch.answers)), "head")

    def label_loss(self, visual: Any, labels: NDArray[np.int64]) -> Any:
        """Mean cross-entropy of the four dense labels, read from the visual tokens by a linear head."""
        n, half = visual.shape[0], GRID // 2
        logits = self._linear(visual, "label").reshape([n * VISUAL_TOKENS * 4, sum(LABEL_CLASSES)])
        order = labels.reshape(n, half, 2, half, 2, 4).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4)
        loss, start = 0.0, 0
        for k, classes in enumerate(LABEL_CLASSES):
            part = logits[:, start : start + classes]
            target = order[:, k]
            weight = np.where(target > 0, 1.0, 0.15).astype(np.float32)
            each = F.cross_entropy(part, paddle.to_tensor(target), reduction="none").reshape([-1])
            loss = loss + (each * paddle.to_tensor(weight)).sum() / float(weight.sum())
            start += classes
        return loss

    def number_loss(self, batch: Batch, middle: Any) -> Any:
        """Cross-entropy of "which picture is this visual token of", read half-way through the decoder."""
        rows = paddle.gather(middle, paddle.to_tensor(batch.visual_rows))
        rows = Normalise.apply(rows, self.shape.eps, False)
        return F.cross_entropy(self._linear(rows, "number"), paddle.to_tensor(batch.image_number))
