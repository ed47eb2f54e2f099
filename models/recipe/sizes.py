"""Sizes of nano and the parameters that follow from them."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.recipe.drawing import CHARACTERS, COLOUR_NAMES, MAX_ORDINAL, SHAPES
from models.recipe.geometry import GRID, PATCH, VISUAL_TOKENS

MAX_PICTURES = 8
LABEL_CLASSES = (len(SHAPES) + 1, len(COLOUR_NAMES) + 1, len(CHARACTERS) + 1, MAX_ORDINAL + 1)


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the network; head size is 32 everywhere."""

    vocabulary: int
    vision_width: int = 128
    vision_layers: int = 4
    vision_mlp: int = 512
    width: int = 192
    layers: int = 4
    mlp: int = 512
    head: int = 32
    vision_eps: float = 1e-6
    eps: float = 1e-5
    theta: float = 10000.0
    trained_positions: int = 4096
    max_positions: int = 131072


SHORT_FACTORS = (1.05, 1.1, 1.2, 1.3, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.05, 2.1, 2.15, 2.6, 2.95)
LONG_FACTORS = (
    1.05,
    1.23,
    1.45,
    1.65,
    2.86,
    5.42,
    9.09,
    15.66,
    18.36,
    23.08,
    32.59,
    53.84,
    59.29,
    61.19,
    63.48,
    64.81,
)


def parameter_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Names (of the released layout, in short) and shapes; linear weights are [in, out]."""
    c, w = shape.vision_width, shape.width
    shapes: dict[str, tuple[int, ...]] = {
        "vision.cls": (1, 1, c),
        "vision.patch.weight": (3 * PATCH * PATCH, c),
        "vision.position": (1, GRID * GRID + 1, c),
    }
    for i in range(shape.vision_layers):
        for name, rows, columns in (
            ("qkv", c, 3 * c), ("proj", c, c), ("fc1", c, shape.vision_mlp), ("fc2", shape.vision_mlp, c),
        ):  # fmt: skip
            shapes[f"vision.{i}.{name}.weight"] = (rows, columns)
            shapes[f"vision.{i}.{name}.bias"] = (columns,)
    for name, rows, columns in (("mlp1.1", 4 * c, w), ("mlp1.3", w, w)):
        shapes[f"{name}.weight"] = (rows, columns)
        shapes[f"{name}.bias"] = (columns,)
    shapes["embed"] = (shape.vocabulary, w)
    for i in range(shape.layers):
        shapes[f"decoder.{i}.qkv.weight"] = (w, 3 * w)
        shapes[f"decoder.{i}.o.weight"] = (w, w)
        shapes[f"decoder.{i}.gate_up.weight"] = (w, 2 * shape.mlp)
        shapes[f"decoder.{i}.down.weight"] = (shape.mlp, w)
    shapes["head.weight"] = (w, shape.vocabulary)
    shapes["label.weight"] = (w, 4 * sum(LABEL_CLASSES))
    shapes["label.bias"] = (4 * sum(LABEL_CLASSES),)
    shapes["number.weight"] = (w, MAX_PICTURES)
    shapes["cell.weight"] = (w, VISUAL_TOKENS)
    return shapes


def is_vision(name: str) -> bool:
    """Whether the label phase trains this parameter."""
    return name.startswith(("vision.", "mlp1.", "label.", "cell."))


def _wave_positions(width: int) -> NDArray[np.float64]:
    """Sine and cosine of row and column, so that neighbours are alike from the start; [1, 65, width]."""
    rate = 3.0 ** -np.linspace(0, 3, width // 4)
    angle = np.arange(GRID)[:, None] * rate
    wave = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    rows, columns = np.repeat(wave, GRID, axis=0), np.tile(wave, (GRID, 1))
    grid = np.concatenate([rows, columns], axis=1) * 0.6
    return np.concatenate([np.zeros((1, width)), grid])[None]


def initial_parameters(shape: Shape, seed: int) -> dict[str, NDArray[np.float32]]:
    """Seeded start values."""
    rng = np.random.default_rng(seed)
    values = {}
    for name, size in parameter_shapes(shape).items():
        if name.endswith("bias"):
            value = np.zeros(size)
        elif name == "vision.position":
            value = _wave_positions(size[-1])
        elif name in ("embed", "vision.cls"):
            value = rng.normal(0, 0.05, size)
        else:
            depth = shape.layers if name.startswith("decoder") else shape.vision_layers
            residual = name.endswith(("proj.weight", "fc2.weight", "o.weight", "down.weight"))
            value = rng.normal(0, size[0] ** -0.5 * (0.5 / math.sqrt(depth) if residual else 0.8), size)
        values[name] = value.astype(np.float32)
    return values
