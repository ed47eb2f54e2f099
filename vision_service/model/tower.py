"""The InternViT tower (source of the formulas: InternVL modeling_intern_vit.py)."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F

from internvl.checkpoint.tensor_specs import Part
from internvl.errors import ConfigError
from internvl.model_config import InternVLConfig, VisionConfig
from kernels.ops import Activation, Ops, Tensor
from kernels.weights import Weights

_STEM = Part.VISION.value


class VisionTower:
    """Patch embedding and the pre-norm blocks up to the selected layer; there is no final norm."""

    def __init__(self, weights: Weights, config: InternVLConfig, ops: Ops) -> None:
        self._ops = ops
        self._embeddings = PatchEmbeddings(weights, config.vision, ops)
        self._blocks = [
            Block(weights, f"{_STEM}encoder.layers.{index}.", config.vision, ops)
            for index in range(selected_depth(config))
        ]

    def forward(self, tiles: np.ndarray) -> Tensor:
        """Hidden state of the selected layer.

        Args:
            tiles: [n, channels, side, side] float32, normalised; `side` a multiple of the patch size.

        Returns:
            [n, 1 + patches, hidden]; position 0 is the class token, patches are row-major.
        """
        hidden = self._embeddings.forward(tiles)
        for block in self._blocks:
            hidden = block.forward(hidden)
        return hidden


def selected_depth(config: InternVLConfig) -> int:
    """Blocks to run: `select_layer` indexes the hidden states, of which entry 0 is the embedding output.

    Raises:
        ConfigError: no such hidden state.
    """
    states = config.vision.num_hidden_layers + 1
    if not -states <= config.select_layer < states:
        raise ConfigError(f"select_layer: {config.select_layer} is outside the {states} hidden states")
    return config.select_layer % states


class PatchEmbeddings:
    """Non-overlapping patches through one linear map, a class token in front, learned positions added."""

    def __init__(self, weights: Weights, config: VisionConfig, ops: Ops) -> None:
        self._config = config
        self._ops = ops
        self._projection = weights.linear(f"{_STEM}embeddings.patch_embedding")
        self._class_token = weights.tensor(f"{_STEM}embeddings.class_embedding")
        self._positions = weights.tensor(f"{_STEM}embeddings.position_embedding")

    def forward(self, tiles: np.ndarray) -> Tensor:
        """[n, channels, side, side] -> [n, 1 + patches, hidden]."""
        count, grid = tiles.shape[0], tiles.shape[2] // self._config.patch_size
        patches = self._ops.linear(self._ops.tensor(self._patchify(tiles, grid)), self._projection)
        class_tokens = self._class_token.expand([count, 1, self._config.hidden_size])
        return paddle.concat([class_tokens, patches], axis=1) + self._positions_for(grid)

    def _patchify(self, tiles: np.ndarray, grid: int) -> np.ndarray:
        """Rows of a convolution whose stride is its kernel: [n, patches, channels * patch * patch]."""
        count, channels, size = tiles.shape[0], self._config.num_channels, self._config.patch_size
        split = tiles.reshape(count, channels, grid, size, grid, size)
        return split.transpose(0, 2, 4, 1, 3, 5).reshape(count, grid * grid, channels * size * size)

    def _positions_for(self, grid: int) -> Tensor:
        """Patch positions resampled bicubically in float32; untouched when the grid is the trained one."""
        native = self._config.patches_per_side
        if grid == native:
            return self._positions
        table = self._positions[:, 1:].astype("float32")
        image = table.reshape([1, native, native, -1]).transpose([0, 3, 1, 2])
        image = F.interpolate(image, size=[grid, grid], mode="bicubic", align_corners=False)
        table = image.transpose([0, 2, 3, 1]).reshape([1, grid * grid, -1])
        return paddle.concat([self._positions[:, :1], table.astype(self._positions.dtype)], axis=1)


class Block:
    """x + ls1 * attention(norm1(x)), then x + ls2 * mlp(norm2(x)); ls are per-channel layer scales."""

    def __init__(self, weights: Weights, prefix: str, config: VisionConfig, ops: Ops) -> None:
        self._ops = ops
        self._attention = Attention(weights, prefix, config, ops)
        self._norm = weights.norm(f"{prefix}norm2", config.layer_norm_eps)
        self._fc1 = weights.linear(f"{prefix}mlp.fc1")
        self._fc2 = weights.linear(f"{prefix}mlp.fc2")
        self._scale = weights.tensor(f"{prefix}ls2")

    def forward(self, hidden: Tensor) -> Tensor:
        """[n, tokens, hidden] -> the same shape."""
        hidden = self._attention.forward(hidden)
        inner = self._ops.linear(hidden, self._fc1, before=self._norm)
        return self._ops.linear(inner, self._fc2, before=Activation.GELU, scale=self._scale, residual=hidden)


class Attention:
    """Pre-norm, bidirectional; q and k are RMS-normalised over all heads together where the model says so."""

    def __init__(self, weights: Weights, block: str, config: VisionConfig, ops: Ops) -> None:
        prefix, normalised, eps = f"{block}attn.", config.qk_normalization, config.layer_norm_eps
        self._ops = ops
        self._heads = config.num_attention_heads
        self._norm = weights.norm(f"{block}norm1", eps)
        self._qkv = weights.linear(f"{prefix}qkv")
        self._q_norm = weights.norm(f"{prefix}q_norm", eps) if normalised else None
        self._k_norm = weights.norm(f"{prefix}k_norm", eps) if normalised else None
        self._proj = weights.linear(f"{prefix}proj")
        self._scale = weights.tensor(f"{block}ls1")

    def forward(self, hidden: Tensor) -> Tensor:
        """x + ls1 * attention(norm1(x)): [n, tokens, hidden] -> the same shape."""
        qkv = self._ops.linear(hidden, self._qkv, before=self._norm)
        if self._q_norm and self._k_norm:
            q, k, v = paddle.split(qkv, 3, axis=-1)
            q, k = self._ops.norm(q, self._q_norm), self._ops.norm(k, self._k_norm)
            qkv = paddle.concat([q, k, v], axis=-1)
        mixed = self._ops.full_attention(qkv, self._heads)
        return self._ops.linear(mixed, self._proj, scale=self._scale, residual=hidden)
