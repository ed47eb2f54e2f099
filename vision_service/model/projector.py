"""From patch tokens to visual tokens: pixel shuffle and the `mlp1` projector.

Source of the formulas: InternVL modeling_internvl_chat.py.
"""

from __future__ import annotations

import paddle

from internvl.checkpoint.tensor_specs import Part
from internvl.errors import ConfigError
from internvl.model_config import InternVLConfig
from kernels.ops import Activation, Ops, Tensor
from kernels.weights import Weights

_STEM = Part.PROJECTOR.value

# The projector is a framework-default LayerNorm in the reference; its eps is in no config file.
_NORM_EPS = 1e-5


def shuffle_factor(config: InternVLConfig) -> int:
    """Patches merged along each side.

    Raises:
        ConfigError: `downsample_ratio` is not one over a whole number that divides the patch grid of a tile.
    """
    factor = round(1 / config.downsample_ratio)
    grid = config.force_image_size // config.vision.patch_size
    if factor * config.downsample_ratio != 1 or grid % factor:
        raise ConfigError(
            f"downsample_ratio: {config.downsample_ratio} does not divide a grid of {grid} patches evenly"
        )
    return factor


def pixel_shuffle(patches: Tensor, factor: int, version: str) -> Tensor:
    """Merge factor x factor neighbouring patches into one token, top-left first, row by row.

    Args:
        patches: [n, grid * grid, channels], row-major.
        version: "v2" leaves the tokens row-major; "v1" emits them column-major.

    Returns:
        [n, (grid / factor)^2, channels * factor^2].
    """
    count, tokens, channels = patches.shape
    grid = round(tokens**0.5)
    image = patches.reshape([count, grid, grid, channels])
    corners = [image[:, i::factor, j::factor] for i in range(factor) for j in range(factor)]
    merged = paddle.concat(corners, axis=-1)
    if version == "v1":
        merged = merged.transpose([0, 2, 1, 3])
    return merged.reshape([count, -1, channels * factor**2])


class Projector:
    """LayerNorm, Linear, GELU, Linear: from shuffled channels to the decoder's width."""

    def __init__(self, weights: Weights, ops: Ops) -> None:
        self._ops = ops
        self._norm = weights.norm(f"{_STEM}0", _NORM_EPS)
        self._inner = weights.linear(f"{_STEM}1")
        self._outer = weights.linear(f"{_STEM}3")

    def forward(self, tokens: Tensor) -> Tensor:
        """[n, tokens, shuffled] -> [n, tokens, llm_hidden]."""
        inner = self._ops.linear(tokens, self._inner, before=self._norm)
        return self._ops.linear(inner, self._outer, before=Activation.GELU)
