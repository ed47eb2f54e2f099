"""The network in Paddle, written for training speed on CPU cores (one thread a process).

Same function as the served model: InternViT without affine norms and layer scale (exported as such, see
`export`), pixel shuffle v2, mlp1, Phi-3 decoder with `su` rope.
"""

import math
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from numpy.typing import NDArray

from models.recipe.batches import Batch
from models.recipe.geometry import GRID, VISUAL_TOKENS
from models.recipe.layers import Attention, GatedSilu, Gelu, Linear, Normalise, PatchEmbedding, PixelShuffle
from models.recipe.sizes import LABEL_CLASSES, SHORT_FACTORS, Shape


def rope_tables(shape: Shape, length: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """cos and sin [length, head] of the short regime, both scaled (Phi-3 `su`)."""
    factors = np.array(SHORT_FACTORS, np.float64)
    exponents = np.arange(0, shape.head, 2) / shape.head
    angles = np.arange(length)[:, None] / (factors * shape.theta**exponents)
    scale = math.sqrt(
        1 + math.log(shape.max_positions / shape.trained_positions) / math.log(shape.trained_positions)
    )
    angles = np.concatenate([angles, angles], axis=1)
    return (np.cos(angles) * scale).astype(np.float32), (np.sin(angles) * scale).astype(np.float32)


class Network:
    """Functions of the parameters, a mapping from name to Paddle tensor."""

    def __init__(self, shape: Shape, parameters: dict[str, Any]) -> None:
        self.shape, self.p = shape, parameters
        self._rope = rope_tables(shape, 1024)

    def _linear(self, x: Any, name: str) -> Any:
        return Linear.apply(x, self.p[f"{name}.weight"], self.p.get(f"{name}.bias"))

    def visual_tokens(self, patches: NDArray[np.float32]) -> Any:
        """[N, 64, 588] patches to [N, 16, width] tokens."""
        s, p = self.shape, self.p
        x = PatchEmbedding.apply(p["vision.patch.weight"], p["vision.cls"], p["vision.position"], patches)
        for i in range(s.vision_layers):
            h = Normalise.apply(x, s.vision_eps, True)
            h = Attention.apply(self._linear(h, f"vision.{i}.qkv"), s.vision_width // s.head, None, None)
            x = x + self._linear(h, f"vision.{i}.proj")
            h = Gelu.apply(self._linear(Normalise.apply(x, s.vision_eps, True), f"vision.{i}.fc1"))
            x = x + self._linear(h, f"vision.{i}.fc2")
        x = Normalise.apply(PixelShuffle.apply(x), 1e-5, True)
        return self._linear(Gelu.apply(self._linear(x, "mlp1.1")), "mlp1.3")

    def hidden(self, batch: Batch, visual: Any) -> tuple[Any, Any]:
        """Decoder states [B * S, width] after the last norm, and those after the first layer."""
        s, p = self.shape, self.p
        table = p["embed"]
        if visual is not None:
            table = paddle.concat([table, visual.reshape([-1, s.width])], axis=0)
        b, length = batch.gather.shape
        x = paddle.gather(table, paddle.to_tensor(batch.gather.reshape(-1))).reshape([b, length, s.width])
        rope = tuple(t[batch.positions][:, None] for t in self._rope)
        early = x
        for i in range(s.layers):
            h = self._linear(Normalise.apply(x, s.eps, False), f"decoder.{i}.qkv")
            h = Attention.apply(h, s.width // s.head, rope, batch.mask)
            x = x + self._linear(h, f"decoder.{i}.o")
            h = self._linear(Normalise.apply(x, s.eps, False), f"decoder.{i}.gate_up")
            x = x + self._linear(GatedSilu.apply(h), f"decoder.{i}.down")
            if i == 0:
                early = x
        return Normalise.apply(x, s.eps, False).reshape([-1, s.width]), early.reshape([-1, s.width])

    def answer_logits(self, batch: Batch, hidden: Any) -> Any:
        """Logits [A, vocabulary] at the answer positions."""
        return self._linear(paddle.gather(hidden, paddle.to_tensor(batch.answers)), "head")

    def label_loss(self, visual: Any, labels: NDArray[np.int64]) -> Any:
        """Mean cross-entropy of the four dense labels and of the token's own place in the tile.

        Linear heads read them from the visual tokens. Without the place a token says what it shows but not
        where, and the decoder stays at chance on positions and motion.
        """
        n, half = visual.shape[0], GRID // 2
        logits = self._linear(visual, "label").reshape([n * VISUAL_TOKENS * 4, sum(LABEL_CLASSES)])
        order = labels.reshape(n, half, 2, half, 2, 4).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4)
        places = self._linear(Normalise.apply(visual, self.shape.eps, False), "cell")
        own_place = paddle.to_tensor(np.tile(np.arange(VISUAL_TOKENS), n))
        loss, start = F.cross_entropy(places.reshape([-1, VISUAL_TOKENS]), own_place), 0
        for k, classes in enumerate(LABEL_CLASSES):
            part = logits[:, start : start + classes]
            target = order[:, k]
            weight = np.where(target > 0, 1.0, 0.15).astype(np.float32)
            each = F.cross_entropy(part, paddle.to_tensor(target), reduction="none").reshape([-1])
            loss = loss + (each * paddle.to_tensor(weight)).sum() / float(weight.sum())
            start += classes
        return loss

    def number_loss(self, batch: Batch, early: Any) -> Any:
        """Cross-entropy of "which picture is this visual token of", read after the first decoder layer."""
        rows = paddle.gather(early, paddle.to_tensor(batch.visual_rows))
        rows = Normalise.apply(rows, self.shape.eps, False)
        return F.cross_entropy(self._linear(rows, "number"), paddle.to_tensor(batch.image_number))
