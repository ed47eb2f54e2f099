"""How far two arrays are apart: the number that every parity test holds to a limit."""

from __future__ import annotations

import numpy as np


def relative_error(ours: np.ndarray, oracle: np.ndarray) -> float:
    """max|ours - oracle| / max|oracle|; infinite if shapes differ or anything is not finite."""
    if ours.shape != oracle.shape or not (np.isfinite(ours).all() and np.isfinite(oracle).all()):
        return float("inf")
    return float(np.abs(ours.astype(np.float64) - oracle).max() / np.abs(oracle).max())
