"""Pictures that nobody has seen before: no run finds anything of another in a cache."""

from __future__ import annotations

import io
from itertools import count

import numpy as np
from PIL import Image

_numbers = count()


def photo(width: int, height: int) -> bytes:
    """A JPEG of soft random colours."""
    rng = np.random.default_rng(next(_numbers))
    coarse = rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()
