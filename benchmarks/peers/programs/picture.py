"""The picture of an order: soft random colours that no cache knows."""

from __future__ import annotations

import numpy as np
from PIL import Image

from benchmarks.peers.orders import PictureOrder


def picture_of(order: PictureOrder) -> Image.Image:
    """The same order has the same picture."""
    rng = np.random.default_rng(order.seed)
    coarse = rng.integers(0, 256, (order.side // 16, order.side // 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((order.side, order.side), Image.Resampling.BICUBIC)
