"""Random streams. The first key says what a stream is for, so held-out drawings share no seed with
training.
"""

import numpy as np

TRAINING, HELD_OUT, DEMO = 1, 2, 3


def stream(purpose: int, *keys: int) -> np.random.Generator:
    """The generator named by a purpose and any further keys."""
    return np.random.default_rng([purpose, *keys])
