"""Embeddings that were computed once, found again by the pixels of a tile and by the name of an item."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from internvl.errors import ServingError
from internvl.tensors import Quantised
from vision_service import metrics
from vision_service.tiling import TileGrid

# An item costs some 2 KB beside its tiles, which count by their bytes.
_MAX_ITEMS = 16_384


Embeddings: TypeAlias = NDArray[Any] | Quantised
"""Of one tile, [tokens_per_tile, hidden_size], in the element type that they leave in."""


@dataclass(slots=True, eq=False)
class CachedTile:
    """One tile, encoded or on its way.

    Attributes:
        name: of its embeddings; see `vision_service.visual_id`.
        pixels: [S, S, 3], until it is encoded.
        dtype: element type of the embeddings.
        started: whether the encoder has taken it.
        users: requests that hold it; while there are any it stays.
    """

    name: bytes
    pixels: NDArray[np.uint8] | None
    dtype: np.dtype[Any]
    started: bool = False
    users: int = 0
    embeddings: Embeddings | None = None
    _error: ServingError | None = None
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def result(self) -> Embeddings:
        """Wait for the embeddings.

        Raises:
            ServingError: encoding failed.
        """
        if self.embeddings is None:
            await self._ended.wait()
        if self._error is not None:
            raise self._error
        if self.embeddings is None:
            raise RuntimeError("a tile ended without embeddings")
        return self.embeddings

    def end(self, embeddings: Embeddings | None, error: ServingError | None) -> None:
        """Hand one of the two to everybody who waits."""
        self.pixels, self.embeddings, self._error = None, embeddings, error
        self._ended.set()


@dataclass(frozen=True, slots=True)
class CachedItem:
    """A picture or film: its grids and the names of its tiles, in order."""

    grids: tuple[TileGrid, ...]
    names: tuple[bytes, ...]


class EmbeddingCache:
    """Tiles by name, least recently used first out, and items by `visual_id`. Belongs to one event loop.

    A tile that somebody waits for is shared: whoever asks next waits for the same one. What requests hold
    stays, even beyond the budget.
    """

    def __init__(self, max_bytes: int) -> None:
        """
        Args:
            max_bytes: of embeddings that nobody uses and of those in use together; 0 keeps none.
        """
        self._max_bytes = max_bytes
        self._bytes = 0
        self._tiles: dict[bytes, CachedTile] = {}
        self._unused: OrderedDict[bytes, CachedTile] = OrderedDict()  # encoded, held by nobody, oldest first
        self._items: OrderedDict[str, CachedItem] = OrderedDict()

    @property
    def size(self) -> int:
        """Bytes of all embeddings in memory, in use or kept."""
        return self._bytes

    def acquire(self, name: bytes, pixels: NDArray[np.uint8], dtype: np.dtype[Any]) -> CachedTile:
        """Hold a tile: as it is kept, as somebody else has it encoded, or a new one to be encoded."""
        tile = self._tiles.get(name)
        if tile is None:
            tile = self._tiles[name] = CachedTile(name, pixels, dtype)
            metrics.CACHE_LOOKUPS.labels("tile", "miss").inc()
        else:
            self._unused.pop(name, None)
            found = "shared" if tile.embeddings is None else "hit"
            metrics.CACHE_LOOKUPS.labels("tile", found).inc()
        tile.users += 1
        return tile

    def release(self, tile: CachedTile) -> None:
        """Let go of a tile. What nobody holds is kept if it is encoded, and not encoded if it is not yet."""
        tile.users -= 1
        if tile.users:
            return
        if tile.embeddings is not None:
            self._unused[tile.name] = tile
            self._keep_budget()
        elif not tile.started:
            self._forget(tile)

    def finish(self, tile: CachedTile, embeddings: Embeddings) -> None:
        """Keep the embeddings of a tile, and wake whoever waits for them."""
        tile.end(embeddings, None)
        # Dropped before it was started, and by now encoded for somebody else as well: one of them is enough.
        if self._tiles.setdefault(tile.name, tile) is not tile:
            return
        self._bytes += embeddings.nbytes
        if not tile.users:
            self._unused[tile.name] = tile
        self._keep_budget()

    def fail(self, tile: CachedTile, error: ServingError) -> None:
        """Tell whoever waits for a tile that it cannot be had; the next who asks has it encoded anew."""
        tile.end(None, error)
        self._forget(tile)

    def remember(self, visual_id: str, item: CachedItem) -> None:
        """Keep what an item is made of."""
        self._items[visual_id] = item
        self._items.move_to_end(visual_id)
        if len(self._items) > _MAX_ITEMS:
            self._items.popitem(last=False)

    def find(self, visual_id: str) -> CachedItem | None:
        """What an item is made of, if it is known."""
        if visual_id in self._items:
            self._items.move_to_end(visual_id)
        return self._items.get(visual_id)

    def acquire_all(self, names: Sequence[bytes]) -> list[CachedTile] | None:
        """Hold tiles that all are encoded; None, and nothing held, if one of them is not."""
        tiles = [self._tiles.get(name) for name in names]
        encoded = [tile for tile in tiles if tile is not None and tile.embeddings is not None]
        if len(encoded) < len(names):
            metrics.CACHE_LOOKUPS.labels("visual_id", "miss").inc()
            return None
        metrics.CACHE_LOOKUPS.labels("visual_id", "hit").inc()
        for tile in encoded:
            self._unused.pop(tile.name, None)
            tile.users += 1
        return encoded

    def _keep_budget(self) -> None:
        while self._unused and self._bytes > self._max_bytes:
            _, oldest = self._unused.popitem(last=False)
            self._forget(oldest)
            metrics.CACHE_EVICTED_TILES.inc()

    def _forget(self, tile: CachedTile) -> None:
        if self._tiles.get(tile.name) is not tile:
            return
        del self._tiles[tile.name]
        if tile.embeddings is not None:
            self._bytes -= tile.embeddings.nbytes
