"""Names for embeddings: equal names mean equal embeddings, on any replica, up to its device's rounding."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from vision_service.options import MediaOptions
from vision_service.preprocessing import PREPROCESSING_VERSION


@dataclass(frozen=True, slots=True)
class EncoderIdentity:
    """What turns pixels into embeddings.

    Attributes:
        weights_fingerprint: hash of the tower's and projector's weights, and of how they are used.
        preprocessing_version: see `vision_service.preprocessing`.
    """

    weights_fingerprint: str
    preprocessing_version: str = PREPROCESSING_VERSION


def visual_id(content_hash: str, options: MediaOptions, encoder: EncoderIdentity, dtype: str) -> str:
    """SHA-256, in hex, of everything the embeddings depend on.

    Args:
        content_hash: SHA-256 of the file, in hex.
        options: every default filled in, so that a default and the same value said aloud agree.
        encoder: what computes them.
        dtype: element type of the embeddings, for example `bfloat16`.
    """
    parts = {
        "content": content_hash,
        "kind": type(options).__name__,
        "options": asdict(options),
        "encoder": asdict(encoder),
        "dtype": dtype,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def tile_names(tiles: NDArray[np.uint8], encoder: EncoderIdentity, dtype: str) -> tuple[bytes, ...]:
    """Names of the embeddings of single tiles, whatever item they are of: equal pixels, equal names.

    Args:
        tiles: [tiles, S, S, 3], as they are shown to the encoder. No option matters beside them.
        encoder: what encodes them.
        dtype: element type of the embeddings.

    Returns:
        Of each tile 32 bytes.
    """
    parts = {"encoder": asdict(encoder), "dtype": dtype, "shape": tiles.shape[1:]}
    common = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    names = []
    for tile in tiles:
        name = common.copy()
        name.update(np.ascontiguousarray(tile).data)
        names.append(name.digest())
    return tuple(names)
