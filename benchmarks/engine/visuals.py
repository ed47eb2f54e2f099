"""Embeddings of pictures: from the vision service, or random numbers where only their count matters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import numpy as np

from internvl.tensors import from_proto
from internvl.v1 import content_pb2, tensor_pb2, vision_service_pb2, vision_service_pb2_grpc
from llm_service.engine.request import Embeddings


@dataclass(frozen=True, slots=True)
class Visual:
    """A picture as the engine knows it.

    Attributes:
        tiles: of each tile [visual tokens, hidden size].
    """

    visual_id: str
    tiles: tuple[Embeddings, ...]

    @property
    def tokens_per_tile(self) -> int:
        return int(self.tiles[0].shape[0])

    @property
    def tokens(self) -> int:
        """Visual tokens of all tiles."""
        return len(self.tiles) * self.tokens_per_tile


def encode(channel: grpc.Channel, png: bytes) -> Visual:
    """Have the vision service encode a picture."""
    stub = vision_service_pb2_grpc.VisionServiceStub(channel)
    visual_id, tiles = "", []
    for response in stub.Encode(_upload(png)):
        if response.HasField("layout"):
            visual_id = response.layout.visual_id
        elif response.HasField("tile"):
            tiles.append(from_proto(response.tile.embeddings, "tile.embeddings").copy())
    return Visual(visual_id, tuple(tiles))


def random_visual(name: str, like: Visual, tiles: int, tokens_per_tile: int) -> Visual:
    """Random embeddings with the spread of real ones; another name has others."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    rng = np.random.default_rng(int(digest[:16], 16))
    real = np.stack(like.tiles).astype(np.float32)
    shape = (tiles, tokens_per_tile, real.shape[-1])
    made = (rng.standard_normal(shape, np.float32) * real.std()).astype(like.tiles[0].dtype)
    return Visual(digest, tuple(made))


def _upload(png: bytes) -> Iterator[vision_service_pb2.EncodeRequest]:
    options = vision_service_pb2.EncodeOpen(
        image=content_pb2.ImageOptions(), dtype=tensor_pb2.DATA_TYPE_FLOAT32, size_bytes=len(png)
    )
    yield vision_service_pb2.EncodeRequest(open=options)
    yield vision_service_pb2.EncodeRequest(chunk=png)
