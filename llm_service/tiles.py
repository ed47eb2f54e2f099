"""The tiles of one request as they come over the wire: exactly those asked for, in order, and sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from internvl.errors import InvalidField
from internvl.tensors import DTYPES, from_proto
from internvl.v1 import content_pb2, tensor_pb2
from llm_service.engine.request import Embeddings, TileKey, VisualNeed

_FIELD = "tile"


class TileIntake:
    """Checks tile after tile, so that a wrong one fails its own request before it reaches the model."""

    def __init__(
        self,
        needed: Sequence[VisualNeed],
        shape: tuple[int, int],
        dtypes: Mapping[str, tensor_pb2.DataType.ValueType],
    ) -> None:
        """Expect what `Admitted` asked for.

        Args:
            shape: [tokens_per_tile, hidden_size].
            dtypes: element type of each item, by `visual_id`, as its layout said.
        """
        self._expected = [
            TileKey(need.visual_id, number)
            for need in needed
            for number in range(need.first_tile, need.tiles)
        ]
        self._shape = shape
        self._dtypes = dtypes
        self._taken = 0

    @property
    def is_complete(self) -> bool:
        """Whether every tile has come."""
        return self._taken == len(self._expected)

    def take(self, tile: content_pb2.Tile) -> tuple[TileKey, Embeddings]:
        """Check the next tile.

        Returns:
            Its key, and its embeddings as a read-only view of the message.

        Raises:
            InvalidField: not the tile that is due, or embeddings of another shape or type, or not numbers.
        """
        if self.is_complete:
            raise InvalidField(_FIELD, f"all {len(self._expected)} tiles needed have come already")
        due = self._expected[self._taken]
        if tile.visual_id != due.visual_id:
            known = any(tile.visual_id == key.visual_id for key in self._expected)
            problem = "another item is due" if known else "not an item that is needed"
            raise InvalidField(f"{_FIELD}.visual_id", problem)
        if tile.index != due.number:
            raise InvalidField(f"{_FIELD}.index", f"tile {due.number} is due, got {tile.index}")
        embeddings = self._embeddings(tile, due)
        self._taken += 1
        return due, embeddings

    def check_complete(self) -> None:
        """Call when no more tiles can come.

        Raises:
            InvalidField: some are missing.
        """
        if not self.is_complete:
            raise InvalidField(
                _FIELD, f"the stream was closed after {self._taken} of {len(self._expected)} tiles"
            )

    def _embeddings(self, tile: content_pb2.Tile, due: TileKey) -> Embeddings:
        field = f"{_FIELD}.embeddings"
        expected = self._dtypes[due.visual_id]
        if tile.embeddings.dtype != expected:
            raise InvalidField(f"{field}.dtype", f"the layout said {tensor_pb2.DataType.Name(expected)}")
        embeddings = from_proto(tile.embeddings, field)
        if embeddings.shape != self._shape:
            raise InvalidField(f"{field}.shape", f"must be {list(self._shape)}, got {list(embeddings.shape)}")
        if not _all_finite(embeddings):
            raise InvalidField(f"{field}.data", "holds values that are not finite numbers")
        return embeddings


def _all_finite(embeddings: Embeddings) -> bool:
    """Whether no exponent is all ones; on the bits, because numpy has no fast test for bfloat16."""
    if embeddings.dtype == DTYPES[tensor_pb2.DATA_TYPE_FLOAT32]:
        return bool(np.isfinite(embeddings).all())
    return not bool(((embeddings.view(np.uint16) & 0x7F80) == 0x7F80).any())
